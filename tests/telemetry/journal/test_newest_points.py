"""streams_at: which streams have a point at the iteration from which a run resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.telemetry_fakes import run_record
from telemetry.journal.points_at import streams_at
from telemetry.journal.writer import JournalWriter
from telemetry.records import Scalars


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


def test_only_what_follows_the_step_is_read(folder: Path) -> None:
    write(folder, *(("train", step) for step in range(1000)), name="n" * 200)
    path = folder / "journal-0.jsonl"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\n" * (size - (1 << 17)))
    assert streams_at(folder, 998) == {"train"}
    assert streams_at(folder, 0) == set()


@pytest.mark.parametrize("length", [1, 200])
def test_lines_that_cross_blocks_are_read(folder: Path, length: int) -> None:
    streams = [f"stream{number}" for number in range(2000)]
    write(folder, ("train", 1), *((stream, 2) for stream in streams), name="n" * length)
    assert streams_at(folder, 2) == set(streams)


def test_a_folder_without_a_journal_has_no_points(folder: Path) -> None:
    assert streams_at(folder / "missing", 1) == set()
