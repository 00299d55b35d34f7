"""The newest points of a run: what a resume reads from the end of the journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.telemetry_fakes import run_record
from telemetry.journal.newest_points import newest_points, streams_at
from telemetry.journal.writer import JournalWriter
from telemetry.records import Histogram, Scalars


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, *points: tuple[str, int], resumed: int | None = None, name: str = "loss") -> None:
    """Write an attempt with these points, (stream, step)."""
    journal = JournalWriter(folder, run_record(folder, 1 if resumed is None else 2), resumed_step=resumed)
    for stream, step in points:
        journal.append(
            lambda seq, stream=stream, step=step: Scalars(seq=seq, time=0, stream=stream, step=step, values={name: 1.0})
        )
    journal.commit()
    journal.close()


def test_streams_with_a_point_at_the_step_are_found_in_all_attempts(folder: Path) -> None:
    write(folder, ("train", 20), ("val", 20), ("train", 25), ("train_epoch", 25), ("train", 30))
    write(folder, ("val", 25), ("train", 30), resumed=25)
    write(folder, resumed=25)
    assert streams_at(folder, 25) == {"train", "train_epoch", "val"}
    assert streams_at(folder, 20) == {"train", "val"}
    assert streams_at(folder, 24) == set()
    assert streams_at(folder, 0) == set()


def test_superseded_points_do_not_count(folder: Path) -> None:
    write(folder, ("train", 20), ("train", 25), ("val", 25))
    write(folder, ("train", 25), resumed=20)
    assert streams_at(folder, 25) == {"train"}


def test_damaged_and_torn_lines_are_skipped(folder: Path) -> None:
    write(folder, ("train", 20), ("val", 25), ("train", 30))
    path = folder / "journal-0.jsonl"
    data = path.read_bytes()
    path.write_bytes(data + b"x" * (3 << 20) + data[-50:-10])
    assert streams_at(folder, 25) == {"val"}


def test_only_what_follows_the_step_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, *(("train", step) for step in range(3000)), name="n" * 200)
    size = (folder / "journal-0.jsonl").stat().st_size
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda fd, length, offset: (read.append(length), pread(fd, length, offset))[1])
    assert streams_at(folder, 2998) == {"train"}
    # The beginning is read too, for the run record.
    assert sum(read) < size / 2
    assert streams_at(folder, 0) == {"train"}
    assert sum(read) > size


@pytest.mark.parametrize("length", [1, 200])
def test_lines_that_cross_blocks_are_read(folder: Path, length: int) -> None:
    streams = [f"stream{number}" for number in range(2000)]
    write(folder, ("train", 1), *((stream, 2) for stream in streams), name="n" * length)
    assert streams_at(folder, 2) == set(streams)


def test_a_folder_without_a_journal_has_no_points(folder: Path) -> None:
    assert streams_at(folder / "missing", 1) == set()


def steps(points: list[Scalars]) -> list[tuple[str, int]]:
    return [(point.stream, point.step) for point in points]


def test_the_newest_points_of_the_streams_are_returned_oldest_first(folder: Path) -> None:
    write(folder, *((stream, step) for step in range(1, 6) for stream in ("train", "val", "other")))
    assert steps(newest_points(folder, ["train", "val"], 4, max_points=3)) == [("val", 3), ("train", 4), ("val", 4)]
    assert steps(newest_points(folder, ["val"], 5)) == [("val", step) for step in range(1, 6)]
    assert newest_points(folder, ["missing"], 5) == []
    assert newest_points(folder, [], 5) == []


def test_newest_points_are_not_superseded_and_not_repeated(folder: Path) -> None:
    write(folder, *(("train", step) for step in range(1, 6)))
    write(folder, ("train", 4), resumed=3)
    # A segment that begins with records of the previous one, as after a failed sync.
    first, *lines = (folder / "journal-1.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal-2.jsonl").write_bytes(b"".join([first, *lines]))
    assert steps(newest_points(folder, ["train"], 9)) == [("train", step) for step in (1, 2, 3, 4)]


def test_the_search_for_newest_points_is_bounded(folder: Path) -> None:
    write(folder, ("train", 1), *(("other", step) for step in range(1000)), ("train", 1001))
    size = (folder / "journal-0.jsonl").stat().st_size
    assert steps(newest_points(folder, ["train"], 1001, max_bytes=size // 2)) == [("train", 1001)]
    assert steps(newest_points(folder, ["train"], 1001)) == [("train", 1), ("train", 1001)]


def test_media_at_the_step_are_found_by_name(folder: Path) -> None:
    write(folder, ("train", 20), ("train", 25))
    journal = JournalWriter(folder, run_record(folder, 2), resumed_step=25)
    for name, step in (("val/parity/E", 25), ("val/parity/F", 20)):
        journal.append(
            lambda seq, name=name, step=step: Histogram(seq=seq, time=0, name=name, step=step, edges=[0, 1], counts=[1])
        )
    journal.commit()
    journal.close()
    assert streams_at(folder, 25) == {"train", "val/parity/E"}
