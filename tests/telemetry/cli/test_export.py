"""``telemetry export``: the exported rows, checked with ``csv`` and ``json``."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from support.telemetry_fakes import journal_lines
from support.written_runs import WrittenRun
from telemetry.cli import main

COLUMNS = ["run", "seq", "stream", "step", "time", "name", "value", "unit"]


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def export(*args: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, args)])


def table(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))


def values(folder: Path) -> list[dict[str, Any]]:
    """Return the expected rows, computed from the lines of the journal."""
    lines = journal_lines(folder)
    units = {name: metric.get("unit", "1") for name, metric in lines[0]["metrics"].items()}
    return [
        {
            "run": "water",
            "seq": line["seq"],
            "stream": line["stream"],
            "step": line["step"],
            "time": line["time"],
            "name": f"{line['stream']}/{name}",
            "value": value,
            "unit": units.get(f"{line['stream']}/{name}", ""),
        }
        for line in lines
        if line["kind"] == "scalars"
        for name, value in line["values"].items()
    ]


def fill(run: WrittenRun) -> None:
    run.points("train", 200, {"loss": 0.1 + 0.2, "E_rmse": 1e-300, "lr": 0.001})
    run.points("train", 400, {"loss": math.nan, "E_rmse": math.inf, "lr": -math.inf})
    run.alert(400, "not finite")
    run.points("val", 400, {"loss": 3.0, "gfn1/E_rmse": 5e-324, 'undeclared, with "quotes"\nand\rlines': 1.0})
    run.close()


def test_csv_has_a_line_for_each_value_in_journal_order(run: WrittenRun) -> None:
    fill(run)
    result = export(run.folder)
    rows = table(result)
    assert list(rows[0]) == COLUMNS
    expected = values(run.folder)
    assert [row | {"value": None} for row in rows] == [
        {key: str(value) for key, value in row.items()} | {"value": None} for row in expected
    ]
    for row, line in zip(rows, expected, strict=True):
        # Compared as text, because NaN is not equal to itself.
        assert repr(float(row["value"])) == repr(float(line["value"]))
    assert result.stderr == ""


def test_jsonl_has_the_same_rows_with_numbers_as_in_the_journal(run: WrittenRun) -> None:
    fill(run)
    result = export(run.folder, "--format", "jsonl")
    assert [json.loads(line) for line in result.stdout_bytes.decode().splitlines()] == values(run.folder)


def test_non_finite_values_are_written_as_in_the_journal(run: WrittenRun) -> None:
    fill(run)
    found = [row["value"] for row in table(export(run.folder)) if row["step"] == "400" and row["stream"] == "train"]
    assert found == ["NaN", "Infinity", "-Infinity"]


def test_pandas_reads_the_csv(run: WrittenRun) -> None:
    pd = pytest.importorskip("pandas")
    fill(run)
    frame = pd.read_csv(io.StringIO(export(run.folder).stdout_bytes.decode()))
    assert frame["value"].dtype == "float64"
    assert frame.loc[frame["name"] == "train/lr", "value"].tolist() == [0.001, -math.inf]


def test_superseded_values_are_omitted_or_marked(run: WrittenRun) -> None:
    run.point("train/loss", 100, 1.0)
    run.point("train/loss", 200, 2.0)
    run.begin(resume_step=100)
    run.point("train/loss", 200, 3.0)
    rows = table(export(run.folder))
    assert [(row["step"], row["value"]) for row in rows] == [("100", "1.0"), ("200", "3.0")]
    marked = table(export(run.folder, "--all"))
    assert list(marked[0]) == [*COLUMNS, "superseded"]
    assert [(row["value"], row["superseded"]) for row in marked] == [
        ("1.0", "False"),
        ("2.0", "True"),
        ("3.0", "False"),
    ]
    lines = export(run.folder, "--all", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["superseded"] for line in lines] == [False, True, False]


def test_a_file_is_written_in_utf_8(run: WrittenRun, tmp_path: Path) -> None:
    run.points("train", 1, {"Å": 1.0})
    out = tmp_path / "water.csv"
    result = export(run.folder, "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert out.read_bytes().decode().splitlines()[1].endswith(",train/Å,1.0,")


def test_a_file_inside_the_run_folder_is_refused(run: WrittenRun) -> None:
    run.point("train/loss", 1, 1.0)
    before = run.journal.read_bytes()
    for out in (run.journal, run.folder / "sub" / "x.csv"):
        result = export(run.folder, "-o", out)
        assert result.exit_code == 2
        assert "is inside the run folder" in result.stderr
    assert run.journal.read_bytes() == before


def test_a_file_that_cannot_be_written_is_an_error(run: WrittenRun, tmp_path: Path) -> None:
    result = export(run.folder, "-o", tmp_path / "no" / "such" / "x.csv")
    assert result.exit_code == 2
    assert "cannot be written (No such file or directory)" in result.stderr


def test_a_run_without_values_has_only_the_header(run: WrittenRun) -> None:
    assert export(run.folder).stdout == ",".join(COLUMNS) + "\n"
    assert export(run.folder, "--format", "jsonl").stdout == ""


def test_unreadable_records_are_reported_on_stderr(run: WrittenRun) -> None:
    run.point("train/loss", 1, 1.0)
    run.raw(b"damage\n")
    result = export(run.folder)
    assert len(table(result)) == 1
    assert result.stderr == "skipped in the journal: 1 damaged\n"


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    result = export(tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no run in")


def test_a_closed_pipe_causes_no_traceback(run: WrittenRun) -> None:
    for step in range(20_000):
        run.point("train/loss", step, 1.0)
    with subprocess.Popen(
        [sys.executable, "-m", "telemetry", "export", str(run.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(20)


def test_texts_that_a_spreadsheet_would_evaluate_are_neutralized_in_csv_but_values_are_exact(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "=water")
    run.points("-train", 200, {"@loss": -1.5, "+lr": -math.inf})
    rows = table(export(run.folder))
    assert [(row["run"], row["stream"], row["name"]) for row in rows] == [
        ("'=water", "'-train", "'-train/@loss"),
        ("'=water", "'-train", "'-train/+lr"),
    ]
    assert [float(row["value"]) for row in rows] == [-1.5, -math.inf]
    lines = [json.loads(line) for line in export(run.folder, "--format", "jsonl").output.splitlines()]
    assert [(line["run"], line["stream"], line["name"]) for line in lines] == [
        ("=water", "-train", "-train/@loss"),
        ("=water", "-train", "-train/+lr"),
    ]
