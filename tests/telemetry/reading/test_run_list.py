"""The table of the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import beat
from support.written_runs import NOON, WrittenRun
from telemetry.reading.run_list import RunTable
from telemetry.reading.run_summary import summarize
from telemetry.run_folder.process_identity import current_process


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_it_has_a_line_for_each_run_newest_first(runs: Path) -> None:
    old, new = WrittenRun(runs / "old"), WrittenRun(runs / "new")
    for run, first in ((old, 100), (new, 300)):
        for step in (first, first + 100):
            run.point("train/loss", step, 1.0)
            run.point("val/loss", step, 5.0 + step)
    old.close("failed")
    beat(new.folder, current_process())
    lines = list(RunTable(runs).lines(NOON + 400_000 + 90_000))
    assert [line.split()[0] for line in lines] == ["run", "old", "new"]
    assert lines[1].split() == ["old", "failed", "200", "0", "s", "ago", "-", "105", "at", "100"]
    assert lines[2].split() == ["new", "running", "400", "1", "min", "ago", "-", "305", "at", "300"]


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(-5, "0 s ago"), (59, "59 s ago"), (3599, "59 min ago"), (86_399, "23 h ago"), (200_000, "2 d ago")],
)
def test_an_age_has_a_single_unit(runs: Path, seconds: int, age: str) -> None:
    WrittenRun(runs / "a").point("train/loss", 0, 1.0)
    assert age in list(RunTable(runs).lines(NOON + 1000 * seconds))[1]


def test_an_unexpected_error_in_one_run_does_not_hide_the_others(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, metric: str | None) -> Any:
        if folder.name == "bad":
            msg = "surprise"
            raise RuntimeError(msg)
        return summarize(folder, metric)

    for name in ("bad", "good"):
        WrittenRun(runs / name).close()
    monkeypatch.setattr("telemetry.reading.run_list.summarize", fail)
    lines = list(RunTable(runs).lines(NOON))
    assert [line.split()[:2] for line in lines[1:]] == [["good", "finished"], ["bad", "cannot"]]
    assert lines[2] == "bad  cannot be read: surprise"
