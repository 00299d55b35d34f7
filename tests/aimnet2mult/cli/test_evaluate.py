"""The command that evaluates a model."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aimnet2mult.cli import cli
from support.sample_runs import TrainedRun
from support.telemetry_fakes import eventually


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, words)])


def test_a_table_for_each_label(trained: TrainedRun) -> None:
    logging.getLogger("ignite").setLevel(logging.INFO)
    result = invoke(trained.folder, "--by", "fidelity", "--by", "source", "--worst", 1)
    assert result.exit_code == 0, result.output
    assert not logging.getLogger("ignite").isEnabledFor(logging.ERROR)
    lines = result.stdout.splitlines()
    weights = rf"{trained.folder}/checkpoints/best\.pt, best val/loss, iteration \d+"
    assert re.match(rf"{trained.folder} \({weights}\) on val data: 32 structures", lines[0])
    headings = ["energy [kcal/mol]", "forces [kcal/mol/Å]", "atomic charges [e]", "atomic spin charges [e]"]
    starts = [next(i for i, line in enumerate(lines) if line.startswith(heading)) for heading in headings]
    assert lines[starts[0]].split()[2:] == [
        "structures",
        "RMSE",
        "MAE",
        "R²",
        "max",
        "RMSE/atom",
        "MAE/atom",
        "max/atom",
    ]
    rows = [line.split("  ")[1] for line in lines[starts[0] + 1 : starts[1] - 3]]
    assert rows == ["all", "fidelity gfn1", "fidelity spgfn2", "source md", "source opt"]
    assert len({len(line) for line in lines[starts[0] : starts[0] + 6]}) == 1
    assert lines[starts[1] - 2].endswith(")")
    assert "(frame " in lines[starts[1] - 2]
    assert not any(line.startswith("  fidelity gfn1") for line in lines[starts[3] :])


def test_stderr_has_no_log_of_ignite(trained: TrainedRun, caplog: pytest.LogCaptureFixture) -> None:
    # As after an import of aimnet, which sets the level of all loggers.
    caplog.set_level(logging.INFO, logger="ignite")
    assert invoke(trained.folder, "--json").exit_code == 0
    assert not caplog.records


def test_json_has_the_metrics_with_their_units(trained: TrainedRun) -> None:
    result = invoke(trained.folder, "--json", "--split", "all", "--worst", 2, "telemetry.units.energy=eV")
    content = json.loads(result.stdout)
    assert (content["part"], content["structures"]) == ("all", 106)
    assert content["units"]["E_rmse"] == "eV"
    assert content["by"]["fidelity"]["spgfn2"]["s_structures"] == 53
    assert {"file", "group", "row", "frame", "fidelity", "error"} == content["worst"]["F"][1].keys()


def test_a_data_file_may_have_an_equals_sign_in_its_path(trained: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").mkdir()
    moved = shutil.copy(trained.files[0], tmp_path / "lr=0.1")
    found = invoke(trained.folder, moved, "--fidelity", "gfn1", "--json", "data.samplers.val.batch_size=7")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["data"] == [str(moved)]


def test_a_weight_file_is_evaluated_on_data(trained: TrainedRun) -> None:
    weights = trained.folder / "checkpoints" / "best.pt"
    found = invoke(weights, *trained.files, "--json", "--batch-size", 7)
    assert found.exit_code == 0, found.output
    expected = json.loads(invoke(trained.folder, *trained.files, "--json").stdout)["metrics"]
    without_loss = {name: value for name, value in expected.items() if not name.startswith("loss")}
    assert json.loads(found.stdout)["metrics"] == without_loss


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "DATA", "--split", "val"], "--split is for the data of a run"),
        (["WEIGHTS"], "is a weight file, which has no data; give DATA files, or the run folder"),
        (["RUN", "--predictions"], "--predictions needs a folder: add -o DIR"),
        (["missing"], "no run 'missing'"),
        (["RUN", "missing.h5", "--fidelity", "gfn1"], "no data set missing.h5"),
        (["RUN", "--batch-size", "0"], "'0' is not an integer of at least 1"),
    ],
)
def test_mistakes_are_explained(trained: TrainedRun, words: list[str], message: str) -> None:
    names = {"RUN": trained.folder, "WEIGHTS": trained.folder / "checkpoints" / "best.pt", "DATA": trained.files[0]}
    result = invoke(*(names.get(word, word) for word in words))
    assert result.exit_code != 0
    assert message in f"{result.stderr}{result.exception}"


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(trained: TrainedRun, tmp_path: Path) -> None:
    words = ["evaluate", trained.folder, "-o", tmp_path / "out", "--split", "all", "--batch-size", "1"]
    command = [sys.executable, "-m", "aimnet2mult.cli", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    eventually(lambda: any(tmp_path.iterdir()) or process.poll() is not None, 60)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.strip() == "error: interrupted"
    assert list(tmp_path.iterdir()) == []
