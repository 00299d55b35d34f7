"""The page "Using a model" and the ASE examples work as written."""

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from click.testing import CliRunner

from aimnet2mult.cli import cli
from support.saved_models import describe, write_weights

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "using-a-model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change to a folder with the model RUN of the page."""
    monkeypatch.chdir(tmp_path)
    write_weights(Path("RUN"), describe())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_commands_and_the_code_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dftd3")
    words = [shlex.split(line) for kind, block in BLOCKS if not kind for line in block.splitlines()]
    commands = [line[1:] for line in words if line[0] == "aimnet2mult"]
    assert len(commands) == 3
    for command in commands:
        done = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert done.output == f"wrote {command[-1]}: fidelity wb97m of {Path('RUN').resolve()}\n"
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "using-a-model.md", "exec"), {})  # noqa: S102 - our own page
    assert len(capsys.readouterr().out) > 100


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(cli, ["export", "RUN", "--fidelity", "wb97m", "wb97m.pt"]).exit_code == 0
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("python ")]
    assert len(lines) == 2
    for line in lines:
        script, *arguments = line.split()[1:]
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / "examples" / "ase" / script), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"^gfn1: -\d+\.\d{4} eV\nwb97m: -\d+\.\d{4} eV$", printed, re.MULTILINE)
    assert read("relaxed.xyz").info["charge"] == 0
    energies = np.array([float(value) for value in re.findall(r"K  (\S+) eV", printed)])
    assert len(energies) == 11
    # Verlet conserves the energy.
    assert np.ptp(energies) < 0.02
