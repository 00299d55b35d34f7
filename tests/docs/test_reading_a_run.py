"""The commands and code in docs/how-to/reading-a-run.md work as shown."""

from __future__ import annotations

import csv
import re
import runpy
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from telemetry import Metric, testing
from telemetry.cli import main
from telemetry.journal.codec import encode
from telemetry.reading.export import Row
from telemetry.sink_api import Closed

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "reading-a-run.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("telemetry ")]
SNIPPETS = [block for kind, block in BLOCKS if kind == "python"]
VALUES = {"loss": 0.5, "E_rmse": 3.0, "q_rmse": 0.1, "lr": 1e-3}


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {f"{stream}/{name}": Metric() for stream in ("train", "train_window", "val") for name in VALUES}
    for name in ("RUN", "OTHER", "runs/a", "runs/b"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        records = [
            testing.run_record(folder.name, metrics=metrics),
            *(
                testing.scalars(seq, 100, stream, **VALUES)
                for seq, stream in enumerate(("train", "train_window", "val"), 1)
            ),
            Closed(seq=4, time=0, status="finished"),
        ]
        (folder / "journal-0.jsonl").write_bytes(b"".join(map(encode, records)))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_on_the_page_run(command: str) -> None:
    if " show " in command:
        pytest.importorskip("plotext")
        pytest.importorskip("matplotlib")
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert (result.exit_code, result.stderr) == (0, ""), result.output


def test_the_page_lists_exactly_the_existing_commands_and_options() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {"list", "show", "status", "export"}
    offered = {
        option
        for name in ("list", "show", "status", "export")
        for parameter in main.commands[name].params
        for option in parameter.opts
        if option.startswith("--")
    }
    named = set(re.findall(r"(?<![\w-])--[a-z]+", TEXT))
    suggested = {"--resume", "--telemetry"}  # in the commands that status prints
    assert named - suggested == offered - {"--output"}


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_code_on_the_page_runs(number: int, tmp_path: Path) -> None:
    if "frame()" in SNIPPETS[number]:
        pytest.importorskip("pandas")
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPETS[number], encoding="utf-8")
    runpy.run_path(str(path))


def test_the_table_of_columns_matches_the_export(tmp_path: Path) -> None:
    table = TEXT.partition("## Export a table")[2].partition("\n## ")[0]
    columns = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert columns == list(Row._fields)
    out = tmp_path / "out.csv"
    CliRunner().invoke(main, ["export", "RUN", "--all", "-o", str(out)])
    with out.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == columns


def test_the_run_list_on_the_page_has_the_printed_header() -> None:
    shown = next(block for _, block in BLOCKS if block.startswith("run  "))
    printed = CliRunner().invoke(main, ["list", "runs"]).stdout
    assert re.split(r" {2,}", shown.splitlines()[0]) == re.split(r" {2,}", printed.splitlines()[0])
