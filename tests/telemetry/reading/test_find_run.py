"""Finding a run by its path, ID or name."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.written_runs import WrittenRun
from telemetry.errors import RunNotFound
from telemetry.reading.find_run import find_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder ``runs`` of the current folder, with three runs."""
    monkeypatch.chdir(tmp_path)
    WrittenRun(tmp_path / "runs" / "water-20261127-093000", name="water")
    WrittenRun(tmp_path / "runs" / "water-20261127-101500", name="water, tuned")
    WrittenRun(tmp_path / "runs" / "x17", name="ice")
    return Path("runs")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("runs/x17", "x17"),
        ("runs/x17/", "x17"),
        ("runs/x1", "x17"),
        ("x17", "x17"),
        ("ice", "x17"),
        ("ic", "x17"),
        ("water-20261127-10", "water-20261127-101500"),
        ("water", "water-20261127-093000"),
        ("water, t", "water-20261127-101500"),
    ],
)
def test_a_run_is_found_by_path_id_name_or_unique_beginning(runs: Path, name: str, found: str) -> None:
    assert find_run(name) == runs / found


def test_a_run_folder_at_the_path_has_precedence(runs: Path, tmp_path: Path) -> None:
    WrittenRun(tmp_path / "x17")
    assert find_run("x17") == Path("x17")


def test_a_run_in_the_current_folder_is_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs / "x17")
    assert find_run(".") == Path()


def test_a_beginning_of_several_runs_is_an_error_that_lists_them(runs: Path) -> None:
    with pytest.raises(RunNotFound) as raised:
        find_run("wat")
    assert str(raised.value) == (
        "'wat' could be any of 2 runs in runs: water-20261127-093000, water-20261127-101500; give one of these IDs"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x71", "no run 'x71': there is no such folder, and no run with this ID or name in runs. Did you mean 'x17'?"),
        ("runs/x71", "no run in runs/x71: there is no such folder. Did you mean 'x17'?"),
        ("other/x17", "no run in other/x17: there is no such folder"),
        ("runs", "runs is not a run, but a folder of runs; list them: telemetry list runs"),
        ("empty", "no run in empty: it contains no journal-<k>.jsonl"),
        ("file", "no run in file: it is a file; give the run folder that contains the journal"),
    ],
)
def test_the_error_says_whether_the_folder_is_missing_or_contains_no_run(runs: Path, name: str, message: str) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    with pytest.raises(RunNotFound) as raised:
        find_run(name)
    assert str(raised.value) == message


@pytest.mark.parametrize(("exists", "why"), [(False, "does not exist"), (True, "contains no runs")])
def test_the_error_names_the_folder_that_was_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if exists:
        Path("runs").mkdir()
    with pytest.raises(RunNotFound, match=f"no run with this ID or name in runs, which {why}$"):
        find_run("x17")
