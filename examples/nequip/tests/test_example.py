"""The training of nequip runs, and its curves are those of Lightning's CSV logger."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1]


def test_all_curves_are_those_of_the_csv_logger(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = Path(sys.executable).with_name("nequip-train")
    (tmp_path / "config.yaml").write_text((EXAMPLE / "config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    for arguments in (
        [sys.executable, EXAMPLE / "data.py", "copper.xyz"],
        [command, "-cn", "config.yaml"],
        [sys.executable, EXAMPLE / "compare.py", "runs/nequip", "csv/lightning_logs/version_0/metrics.csv"],
    ):
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "48 curves, 271 points, 0 differences\n"
