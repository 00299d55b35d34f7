"""Blocks of points of other streams are passed over only if none of them is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.written_runs import WrittenRun
from telemetry.journal.segment_lines import lines
from telemetry.journal.stream_search import PassedScalars, StreamSearch
from telemetry.records import Scalars


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "run")


def found(run: WrittenRun, *streams: str, max_step: int = 100_000) -> list[tuple[int, int]]:
    """Return the numbers of the points found, each with the number of points passed over before it."""
    records = [record for record, _ in lines(run.journal, 0, search=StreamSearch(streams), max_step=max_step)]
    points = [record for record in records if isinstance(record, Scalars)]
    return [(point.seq, point.passed if isinstance(point, PassedScalars) else 0) for point in points]


def test_points_between_wanted_ones_are_passed_over(run: WrittenRun) -> None:
    for step in range(1, 21):
        run.point("val/loss" if step in {7, 8, 15} else "train/loss", step, 0.5)
    assert found(run, "val") == [(1, 0), (6, 4), (7, 0), (8, 0), (14, 5), (15, 0), (20, 4)]
    assert found(run) == [(1, 0), (20, 18)]
    assert found(run, "train", "val") == [(seq, 0) for seq in range(1, 21)]


def test_similar_names_are_other_streams(run: WrittenRun) -> None:
    for stream in ("train", "val2", "va", "train", "VAL", "v.l", "val", "train"):
        run.point(f"{stream}/loss", 1, 0.5)
    assert found(run, "val") == [(1, 0), (6, 4), (7, 0), (8, 0)]
    assert [seq for seq, _ in found(run, "v.l")] == [1, 5, 6, 8]


def test_a_block_ends_before_any_other_record_or_damage(run: WrittenRun) -> None:
    for step in range(1, 5):
        run.point("train/loss", step, 0.5)
    run.alert(4, "a spike")
    for step in range(6, 9):
        run.point("train/loss", step, 0.5)
    run.raw(b"\0\0\0\n")
    run.point("train/loss", 9, 0.5)
    run.raw(b'{"kind":"scalars","seq":10,"time":1,"stream":"train"')
    assert found(run) == [(1, 0), (4, 2), (6, 0), (8, 1), (9, 0)]


@pytest.mark.parametrize("damage", [b"", b'{"kind":"scalars","seq":5,"time":1,"stream":"train",'])
def test_a_block_with_a_missing_point_is_decoded(run: WrittenRun, damage: bytes) -> None:
    for number in (1, 2, 3, 4, 6, 7):
        if number == 6:
            run.raw(damage)
        run.points("train", number, {"loss": 0.5}, seq=number)
    assert found(run) == [(n, 0) for n in ((1, 2, 3, 4, 7) if damage else (1, 2, 3, 4, 6, 7))]


def test_superseded_points_are_decoded(run: WrittenRun) -> None:
    for step in range(1, 9):
        run.point("train/loss", step, 0.5)
    assert found(run, max_step=8) == [(1, 0), (8, 6)]
    assert found(run, max_step=7) == [(n, 0) for n in range(1, 9)]


def test_a_block_that_must_be_decoded_is_searched_once(run: WrittenRun) -> None:
    class CountingSearch(StreamSearch):
        calls = 0

        def passed(self, *args: object) -> tuple[PassedScalars | None, int]:
            self.calls += 1
            return super().passed(*args)  # type: ignore[arg-type] # passed on

    for number in (*range(1, 200), *range(201, 400)):
        run.points("train", number, {"loss": 0.5}, seq=number)
    search = CountingSearch([])
    assert sum(1 for _ in lines(run.journal, 0, search=search)) == 399
    assert search.calls < 10
