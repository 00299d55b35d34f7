"""The training of nequip runs and is continued, and its curves are those of Lightning's CSV logger."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry import read_run

EXAMPLE = Path(__file__).parents[1]
NEQUIP = [Path(sys.executable).with_name("nequip-train"), "-cn", "config.yaml"]
COMPARE = [sys.executable, EXAMPLE / "compare.py", "runs/nequip", "csv/lightning_logs/version_0/metrics.csv"]
CONFIG = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
UNITS = """
      metrics: {"*/forces_rmse": {_target_: telemetry.Metric, unit: kcal/mol/Å, source_unit: eV/particle/Å}}"""


@pytest.fixture
def folder(tmp_path):
    run([sys.executable, EXAMPLE / "data.py", "copper.xyz"], tmp_path)
    return tmp_path


def run(command, folder, status=0):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_all_curves_are_those_of_the_csv_logger(folder):
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    run(NEQUIP, folder)
    assert run(COMPARE, folder).stdout == "48 curves, 271 points, 0 differences\n"
    assert [path.name for path in (folder / "runs").iterdir()] == ["nequip"]
    path = folder / COMPARE[-1]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    assert "test0_epoch/forces_rmse" in run(COMPARE, folder, status=1).stderr


def test_a_training_continued_from_a_checkpoint_continues_its_run_in_the_declared_units(folder):
    config = CONFIG.replace("[train, test]", "[train]").replace("sinks: tensorboard", f"resume: true{UNITS}")
    for epochs, options in ((2, []), (3, ["++ckpt_path=checkpoints/last.ckpt"])):
        (folder / "config.yaml").write_text(config.replace("max_epochs: 5", f"max_epochs: {epochs}"), encoding="utf-8")
        run([*NEQUIP, *options], folder)
    read = read_run(folder / "runs" / "nequip")
    assert (read.status, read.header.attempt) == ("finished", 2)
    curve = read.curves["val0_epoch/forces_rmse"]
    assert curve.unit == "kcal/mol/Å"
    assert curve.steps.tolist() == [3, 7, 11]
