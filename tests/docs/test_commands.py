"""Check that commands shown in the documentation exist with their flags, and run those that need only a run folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli
from telemetry import Metric, testing
from telemetry.cli import main
from telemetry.journal.codec import encode
from telemetry.sink_api import Closed

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUPS: dict[str, click.Group] = {"aimnet2mult": cli, "telemetry": main}
SERVES = {"view"}
"""Commands that run until Ctrl-C."""
RUN_HERE = {"README.md", "first-training.md", "reliability.md"}
"""Pages whose commands are executed here; the other pages have separate tests."""


def blocks(page: Path, kind: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each call of our commands in blocks and first columns, without launchers such as torchrun."""
    first_cells = re.findall(r"^\| `([^`]+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    for block in (*blocks(page), "\n".join(first_cells)):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\s)(aimnet2mult|telemetry) ([a-z-]+)(?:\s.*)?$", line.partition("  #")[0])
            if found and found[2] in GROUPS[found[1]].commands:
                yield shlex.split(found[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_flags_of_each_command_exist(page: Path) -> None:
    for name, command, *rest in commands(page):
        known = {opt for parameter in GROUPS[name].commands[command].params for opt in parameter.opts}
        flags = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert flags <= known | {"--help"}, (name, command)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a run named RUN and change to its parent folder, as the pages assume."""
    folder = tmp_path / "runs" / "RUN"
    folder.mkdir(parents=True)
    metrics = {"train/loss": Metric(), "val/loss": Metric()}
    records = [
        testing.run_record("RUN", metrics=metrics, sinks={"tensorboard": {}}),
        testing.scalars(1, 200, "train", loss=1.0),
        testing.scalars(2, 200, "val", loss=2.0),
        Closed(seq=3, time=0, status="finished"),
    ]
    (folder / "journal-0.jsonl").write_bytes(b"".join(map(encode, records)))
    (tmp_path / "RUN").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_commands_on_a_run_succeed(run: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("plotext")
    shown = [words for page in PAGES if page.name in RUN_HERE for words in commands(page) if words[0] == "telemetry"]
    assert len(shown) > 8
    for _, *words in shown:
        if "mlflow" not in words and words[0] not in SERVES:
            result = CliRunner().invoke(main, words)
            assert (result.exit_code, result.stderr) == (0, ""), (words, result.output)
    assert list((run / "tensorboard").iterdir())


def test_the_python_code_on_the_alerts_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "how-to" / "alerts.md", "python")
    exec(compile(f"import telemetry\n{code}", "alerts.md", "exec"), {})  # noqa: S102 - our own page
    assert (tmp_path / "runs" / "x" / "journal-0.jsonl").exists()
