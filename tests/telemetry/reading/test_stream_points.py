"""The points of one stream, found by searching a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.written_runs import WrittenRun
from telemetry.reading.stream_points import read_history, read_streams


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "run")


def steps(run: WrittenRun, stream: str = "val", segments: int = 1) -> list[int]:
    return [point.step for point in read_streams(run.folder, list(range(segments)), [stream])]


def test_only_points_of_the_stream_are_found(run: WrittenRun) -> None:
    run.point("val/loss", 1, 0.5)
    run.point("val2/loss", 2, 0.5)
    run.points("train", 3, {'"stream":"val"': 0.5, "stream": 1.0, "val": 2.0})
    run.alert(4, '"stream":"val"')
    run.point("val/loss", 5, 0.5)
    run.close()
    assert steps(run) == [1, 5]
    assert steps(run, "va") == steps(run, "") == []


def test_damaged_lines_that_name_the_stream_are_skipped(run: WrittenRun) -> None:
    run.point("val/loss", 1, 0.5)
    run.raw(b'{"kind":"scalars","stream":"val"}\n')
    run.raw(b'"stream":"val"\n')
    run.point("val/loss", 2, 0.5)
    run.raw(b'{"kind":"scalars","stream":"val"')
    assert steps(run) == [1, 2]


@pytest.mark.parametrize("megabytes", [0.5, 1, 1.5, 2.5, 5])
def test_damage_of_any_length_loses_only_itself(run: WrittenRun, megabytes: float) -> None:
    run.point("val/loss", 1, 0.5)
    run.raw(b'"stream":"val"' + b"x" * int(megabytes * (1 << 20)) + b"\n")
    run.point("val/loss", 2, 0.5)
    assert steps(run) == [1, 2]


def test_a_line_of_almost_the_maximum_length_is_found_wherever_it_begins(run: WrittenRun) -> None:
    names = {f"{n:0200}": 1.0 for n in range(4000)}
    for step in range(1, 4):
        run.points("val", step, names)
        run.point("train/loss", step, 0.5)
    assert steps(run) == [1, 2, 3]


def test_a_missing_segment_has_no_points(run: WrittenRun) -> None:
    run.point("val/loss", 1, 0.5)
    assert steps(run, segments=3) == [1]


def test_superseded_points_are_left_out(run: WrittenRun) -> None:
    for step in (100, 200, 300):
        run.point("val/loss", step, 0.5)
    run.begin(resume_step=200)
    run.point("val/loss", 250, 0.5)
    assert steps(run, segments=2) == [100, 200, 250]


def test_the_history_contains_superseded_points_and_resumes_once_and_in_order(run: WrittenRun) -> None:
    run.point("val/loss", 1, 0.5)
    run.point("val/loss", 2, 0.25)
    run.point("train/loss", 2, 0.25)
    copied = run.last - 1
    run.begin()
    run.point("val/loss", 2, 0.25, seq=copied)
    run.point("val/loss", 3, 0.125)
    run.begin(resume_step=1)
    run.point("val/loss", 2, 0.75)
    found = [(type(record).__name__, record.step) for record in read_history(run.folder, "val")]
    assert found == [("Scalars", 1), ("Scalars", 2), ("Scalars", 3), ("Resumed", 1), ("Scalars", 2)]
