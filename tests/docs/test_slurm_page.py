"""The batch scripts on the page about SLURM are valid; `make test-slurm` runs them on a cluster."""

import re
import subprocess
from pathlib import Path

import pytest

from aimnet2mult.cli import cli
from support.slurm.scripts import batch_script


@pytest.mark.parametrize("heading", ["One node", "Several nodes", "Job arrays", "Signals"])
def test_a_batch_script_is_valid_bash_and_uses_existing_options(heading: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(batch_script(heading))
    subprocess.run(["bash", "-n", script], check=True)  # noqa: S607 - bash from PATH
    options = {name for parameter in cli.commands["train"].params for name in parameter.opts}
    used = set(re.findall(r"--[a-z-]+", script.read_text().partition("aimnet2mult train")[2].partition("\n")[0]))
    assert {"--config", "--resume"} <= used <= options
