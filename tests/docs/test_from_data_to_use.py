"""The tutorial from an xyz file to a relaxed molecule works from top to bottom, with a shorter training."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli
from telemetry import read_run
from telemetry.cli import main as telemetry_cli

pytest.importorskip("ase")
TEXT = (Path(__file__).parents[2] / "docs" / "tutorial" / "from-data-to-use.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line) for kind, block in BLOCKS if not kind for line in block.replace("\\\n", " ").splitlines()]
(CODE,) = [block for kind, block in BLOCKS if kind == "python"]
SHORTER = ("trainer.epochs=2", "data.samplers.train.batches_per_epoch=100", "telemetry.sinks=none")


@pytest.mark.slow
def test_the_tutorial_works_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for program, *words in COMMANDS:
        if words[0] == "view":
            # It would run until Ctrl-C; its own tests cover it.
            continue
        group = {"aimnet2mult": cli, "telemetry": telemetry_cli}[program]
        given = [*words, *SHORTER] if words[0] == "train" else words
        done = CliRunner().invoke(group, given, catch_exceptions=False)
        assert done.exit_code == 0, (words, done.output)
    (run,) = (tmp_path / "runs").glob("water-*")
    curves = read_run(run).curves
    assert len(curves["test/E_rmse"].values) == 1
    assert list((tmp_path / "evaluation").glob("**/*.png"))
    namespace: dict[str, object] = {}
    exec(compile(CODE, "from-data-to-use.md", "exec"), namespace)  # noqa: S102 - our own page
    ethanol: object = namespace["ethanol"]
    assert np.isfinite(ethanol.get_forces()).all()  # type: ignore[attr-defined]
    assert "energy " in capsys.readouterr().out
