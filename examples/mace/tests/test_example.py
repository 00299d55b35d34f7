"""The training of MACE runs and is restarted, and its curves are those in MACE's results."""

import os
import subprocess
import sys
from pathlib import Path

from telemetry import read_run

EXAMPLE = Path(__file__).parents[1]
TINY = (
    "--name copper --train_file copper.xyz --valid_fraction 0.25 --E0s average --energy_key energy --forces_key forces "
    "--model MACE --num_channels 4 --max_L 0 --num_interactions 1 --correlation 1 --r_max 4 --batch_size 10 "
    "--device cpu --default_dtype float32 --seed 1 --restart_latest"
)


def test_all_points_are_those_in_the_results_of_mace_also_after_a_restart(tmp_path):
    def run(*arguments, status=0):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    run(EXAMPLE / "data.py", "copper.xyz")
    run(EXAMPLE / "train.py", *TINY.split(), "--max_num_epochs", 3)
    run(EXAMPLE / "train.py", *TINY.split(), "--max_num_epochs", 5)
    results = next((tmp_path / "results").glob("*_train.txt"))
    assert run(EXAMPLE / "compare.py", "runs/mace", results) == "14 curves, 132 points, 0 curves differ\n"
    read = read_run(tmp_path / "runs" / "mace")
    assert (read.status, read.header.attempt) == ("finished", 2)
    assert read.curves["train/loss"].steps.tolist() == list(range(1, 16))
    assert {name: read.curves[f"val/{name}"].unit for name in ("rmse_f", "rmse_e", "rel_rmse_f")} == {
        "rmse_f": "kcal/mol/Å",
        "rmse_e": "kcal/mol",
        "rel_rmse_f": "",
    }
    first, *others = results.read_text(encoding="utf-8").splitlines(keepends=True)
    results.write_text("".join([*others, first]), encoding="utf-8")
    assert "val/rmse_f" in run(EXAMPLE / "compare.py", "runs/mace", results, status=1)
