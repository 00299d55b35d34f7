"""Reading a journal: every record once, in order, whatever happened to the files."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.segment_files import Clock, lines_of, numbered, read_all, resumed, run_record, scalars, sealed, seqs, write
from telemetry import JournalError, RunFolderError, RunNotFound
from telemetry.journal import segment_lines as lines_module
from telemetry.journal.codec import MAX_LINE, encode
from telemetry.journal.reader import GAP_TIMEOUT, JournalReader, Skipped, read_header
from telemetry.journal.segments import segment_path
from telemetry.records import SEQ_PER_SEGMENT as SEGMENT
from telemetry.records import Alert, AnyRecord, Closed, Resumed, Scalars
from telemetry.run_folder import regular_file

EVENT = sealed(b'{"kind":"event","seq":2,"text":"a spike"')


def everything(folder: Path, skipped: Skipped, *, after: int = 0, superseded: bool = False) -> list[int]:
    """Read a finished journal; check what was skipped, and return the numbers of the records."""
    reader = JournalReader(folder, after=after, superseded=superseded)
    out = seqs(read_all(reader))
    assert reader.skipped == skipped
    return out


# Incomplete last lines.


def test_a_torn_write_at_any_byte_of_a_segment_loses_only_the_torn_record(tmp_path: Path) -> None:
    lines = lines_of(0, numbered(0, 1, 4))
    data = b"".join(lines)
    path = segment_path(tmp_path, 0)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        segment_path(tmp_path, 1).unlink(missing_ok=True)
        whole = sum(len(b"".join(lines[: n + 1])) <= cut for n in range(1, 5))
        torn = cut not in {len(b"".join(lines[:n])) for n in range(6)}

        follower = JournalReader(tmp_path)
        assert seqs(read_all(follower, live=True)) == list(range(1, whole + 1)), cut
        assert follower.skipped == Skipped(), "a line that may still be completed is not skipped"
        assert everything(tmp_path, Skipped(damaged=torn)) == list(range(1, whole + 1)), cut

        write(tmp_path, 1, numbered(1, 1, 2))
        assert seqs(read_all(follower, live=True)) == [SEGMENT + 1, SEGMENT + 2], cut
        assert follower.skipped == Skipped(damaged=torn)
        assert everything(tmp_path, Skipped(damaged=torn)) == [
            *range(1, whole + 1),
            SEGMENT + 1,
            SEGMENT + 2,
        ], cut


def test_a_follower_gets_each_record_once_its_line_is_complete(tmp_path: Path) -> None:
    lines = lines_of(0, numbered(0, 1, 4))
    data = b"".join(lines)
    path = segment_path(tmp_path, 0)
    for step in (1, 7, 50, 333):
        path.write_bytes(b"")
        follower = JournalReader(tmp_path)
        given: list[int] = []
        for cut in range(step, len(data) + step, step):
            path.write_bytes(data[:cut])
            given += seqs(follower.read(10, live=True))
            assert given == list(range(1, 1 + sum(len(b"".join(lines[: n + 1])) <= cut for n in range(1, 5))))
        assert follower.skipped == Skipped()


def test_an_incomplete_last_line_is_not_returned_until_it_is_complete(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1), encode(scalars(2))[:-1]])
    follower = JournalReader(tmp_path)
    assert seqs(read_all(follower, live=True)) == [1]
    with path.open("ab") as file:
        file.write(b"\n")
    assert seqs(read_all(follower, live=True)) == [2]
    assert follower.skipped == Skipped()


def test_a_torn_last_line_of_a_finished_journal_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), encode(scalars(2))[:-5]])
    reader = JournalReader(tmp_path)
    for _ in range(3):
        read_all(reader)
    assert reader.skipped == Skipped(damaged=1)


def test_reading_a_finished_journal_that_grows_continues_where_it_ended(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    reader = JournalReader(tmp_path)
    assert seqs(read_all(reader)) == [1]
    with path.open("ab") as file:
        file.write(encode(scalars(2)))
    assert seqs(read_all(reader)) == [2]
    assert reader.skipped == Skipped()


def test_blank_lines_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, 0, [b"\n", scalars(1), b"\n\n", scalars(2), b"\n"])
    assert everything(tmp_path, Skipped()) == [1, 2]


# Damage and gaps.


@pytest.mark.parametrize("live", [True, False])
def test_a_fragment_followed_by_its_rewritten_record_is_not_waited_for(tmp_path: Path, live: bool) -> None:
    write(tmp_path, 0, [scalars(1), encode(scalars(2))[:20] + b"\n", scalars(2), scalars(3)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=live)) == [1, 2, 3]
    assert reader.skipped == Skipped(damaged=1)


def test_a_damaged_line_in_the_middle_is_skipped_and_reported(tmp_path: Path) -> None:
    damaged = encode(scalars(2)).replace(b"train", b"trait")
    write(tmp_path, 0, [scalars(1), damaged, scalars(3)])
    assert everything(tmp_path, Skipped(damaged=1, lost=1)) == [1, 3]


def test_a_damaged_run_record_affects_no_other_record(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    path.write_bytes(b"X" + path.read_bytes())
    assert everything(tmp_path, Skipped(damaged=1)) == [1]


def test_a_gap_in_a_live_journal_is_waited_for_until_the_timeout(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, 0, [scalars(1), bytes(50) + b"\n", scalars(4), scalars(5)])
    reader = JournalReader(tmp_path, clock=clock)
    assert seqs(reader.read(10, live=True)) == [1]
    clock.now += GAP_TIMEOUT - 0.1
    assert reader.read(10, live=True) == []
    assert reader.skipped == Skipped()
    clock.now += 0.1
    assert seqs(reader.read(10, live=True)) == [4, 5]
    assert reader.skipped == Skipped(damaged=1, lost=2)


def test_each_gap_has_its_own_timeout(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, 0, [scalars(1), scalars(3), scalars(5)])
    reader = JournalReader(tmp_path, clock=clock, gap_timeout=10)
    assert seqs(reader.read(10, live=True)) == [1]
    clock.now += 10
    assert seqs(reader.read(10, live=True)) == [3]
    clock.now += 9
    assert reader.read(10, live=True) == []
    clock.now += 1
    assert seqs(reader.read(10, live=True)) == [5]
    assert reader.skipped == Skipped(lost=2)


def test_a_gap_that_is_filled_before_the_timeout_loses_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, 0, numbered(0, 1, 4))
    data = path.read_bytes()
    for start in range(len(encode(run_record())), len(data), 13):
        for length in (1, 40, 4096):
            path.write_bytes((data[:start] + bytes(length) + data[start + length :])[: len(data)])
            reader = JournalReader(tmp_path, clock=Clock())
            first = seqs(read_all(reader, live=True))
            path.write_bytes(data)
            assert first + seqs(read_all(reader, live=True)) == [1, 2, 3, 4], (start, length)


def test_nul_bytes_at_the_end_are_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1), scalars(2)])
    data = path.read_bytes()
    path.write_bytes(data[:-30] + bytes(30) + bytes(500))
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1]
    path.write_bytes(data)
    assert seqs(read_all(reader, live=True)) == [2]
    assert reader.skipped == Skipped()


def test_a_later_segment_fills_a_gap_at_once_and_in_order(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(4), scalars(5)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1]
    write(tmp_path, 1, [*numbered(0, 2, 6), scalars(SEGMENT + 1)])
    assert seqs(read_all(reader, live=True)) == [2, 3, 4, 5, 6, SEGMENT + 1]
    assert reader.skipped == Skipped(repeated=4)
    assert everything(tmp_path, Skipped(repeated=4)) == [1, 2, 3, 4, 5, 6, SEGMENT + 1]


def test_a_gap_is_waited_for_until_a_new_segment_has_records_of_its_own(
    tmp_path: Path,
) -> None:
    write(tmp_path, 0, [scalars(1), scalars(3)])
    write(tmp_path, 1, [])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1]
    write(tmp_path, 1, [scalars(2), scalars(3)])
    assert seqs(read_all(reader, live=True)) == [2, 3]
    assert reader.skipped == Skipped(repeated=2)


def test_damage_before_a_new_numbering_is_waited_for_because_it_may_hide_older_records(
    tmp_path: Path,
) -> None:
    clock = Clock()
    write(tmp_path, 0, [scalars(1)])
    write(tmp_path, 1, [scalars(1), bytes(300) + b"\n", scalars(SEGMENT + 1)])
    reader = JournalReader(tmp_path, clock=clock)
    assert seqs(read_all(reader, live=True)) == [1]
    write(tmp_path, 2, [*numbered(0, 1, 3), scalars(SEGMENT + 1), scalars(2 * SEGMENT + 1)])
    assert seqs(read_all(reader, live=True)) == [2, 3, SEGMENT + 1, 2 * SEGMENT + 1]
    assert reader.skipped == Skipped(damaged=1, repeated=5)


def test_a_gap_is_final_once_a_new_segment_has_records_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(3)])
    write(tmp_path, 1, [scalars(SEGMENT + 1)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1, 3, SEGMENT + 1]
    assert reader.skipped == Skipped(lost=1)


def test_records_lost_by_two_segments_are_read_from_the_third(tmp_path: Path) -> None:
    write(tmp_path, 0, numbered(0, 1, 3))
    write(tmp_path, 1, [b"torn\n", scalars(5), *numbered(1, 1, 1)])
    write(tmp_path, 2, [*numbered(0, 4, 6), *numbered(1, 1, 2), *numbered(2, 1, 1)])
    own = [SEGMENT + 1, SEGMENT + 2, 2 * SEGMENT + 1]
    assert everything(tmp_path, Skipped(damaged=1, repeated=4)) == [1, 2, 3, 4, 5, 6, *own]


def test_a_gap_in_rewritten_records_is_counted(tmp_path: Path) -> None:
    write(tmp_path, 0, numbered(0, 1, 3))
    write(tmp_path, 1, [scalars(4), b"damaged\n", scalars(6), scalars(SEGMENT + 1)])
    assert everything(tmp_path, Skipped(damaged=1, lost=1)) == [1, 2, 3, 4, 6, SEGMENT + 1]


def test_a_huge_gap_is_counted_without_iterating_over_it(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(SEGMENT - 1)])
    assert everything(tmp_path, Skipped(lost=SEGMENT - 3)) == [1, SEGMENT - 1]


def test_a_record_numbered_for_a_later_segment_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(SEGMENT + 5), scalars(2)])
    write(tmp_path, 1, [scalars(SEGMENT + 1)])
    assert everything(tmp_path, Skipped(damaged=1)) == [1, 2, SEGMENT + 1]


def test_a_run_record_in_the_middle_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), run_record(), scalars(2)])
    assert everything(tmp_path, Skipped()) == [1, 2]


# Cursors and limits.


def tangled(folder: Path) -> Skipped:
    """Write a journal with a gap filled later, one that is not, an unknown kind and a resume."""
    write(folder, 0, [scalars(1), EVENT, scalars(3), scalars(6), scalars(7), b"torn"])
    write(folder, 1, [*numbered(0, 4, 8), scalars(SEGMENT + 1), b"x\n", scalars(SEGMENT + 3, 30)])
    write(
        folder,
        3,
        [
            resumed(3, 5),
            scalars(3 * SEGMENT + 2, 6),
            Closed(seq=3 * SEGMENT + 3, time=1, status="failed"),
        ],
    )
    return Skipped(damaged=2, lost=1, repeated=4, superseded=4, unknown=1, segments=1)


TANGLED = [1, 3, 4, 5, SEGMENT + 1, 3 * SEGMENT + 1, 3 * SEGMENT + 2, 3 * SEGMENT + 3]


def test_a_journal_with_every_kind_of_damage_is_read_exactly(tmp_path: Path) -> None:
    skipped = tangled(tmp_path)
    assert everything(tmp_path, skipped) == TANGLED


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("limit", [*range(1, 10), 1000])
def test_reading_in_batches_of_any_size_returns_the_same_records(tmp_path: Path, limit: int, live: bool) -> None:
    skipped = tangled(tmp_path)
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=live, limit=limit)) == TANGLED
    assert reader.skipped == skipped


@pytest.mark.parametrize("superseded", [True, False])
def test_reading_after_any_record_returns_exactly_the_later_ones(tmp_path: Path, superseded: bool) -> None:
    tangled(tmp_path)
    whole = seqs(read_all(JournalReader(tmp_path, superseded=superseded)))
    assert (len(whole), whole == TANGLED) == ((12, False) if superseded else (8, True))
    for after in {0, *whole, *(n + 1 for n in whole), 2 * SEGMENT, 9 * SEGMENT}:
        for live in (True, False):
            reader = JournalReader(tmp_path, after=after, superseded=superseded, clock=Clock())
            assert seqs(read_all(reader, live=live)) == [n for n in whole if n > after], (after, live)


def test_records_lost_before_the_cursor_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(4), scalars(5)])
    assert everything(tmp_path, Skipped(), after=4) == [5]
    assert everything(tmp_path, Skipped(lost=1), after=2) == [4, 5]


def test_a_follower_started_before_the_journal_finds_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    reader = JournalReader(folder)
    assert reader.read(10, live=True) == []
    folder.mkdir()
    assert reader.read(10, live=True) == []
    write(folder, 0, numbered(0, 1, 2))
    assert seqs(reader.read(10, live=True)) == [1, 2]


def test_an_empty_journal_file_has_no_records_and_is_not_a_run(tmp_path: Path) -> None:
    segment_path(tmp_path, 0).touch()
    assert everything(tmp_path, Skipped()) == []
    assert read_all(JournalReader(tmp_path), live=True) == []
    with pytest.raises(RunNotFound, match=r"no run in .*: it contains no journal-<k>.jsonl with a run record"):
        read_header(tmp_path)
    write(tmp_path, 1, numbered(1, 1, 1))
    assert everything(tmp_path, Skipped()) == [SEGMENT + 1]


def test_records_of_unknown_kinds_are_counted_and_leave_no_gap(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), EVENT, scalars(3)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1, 3]
    assert reader.skipped == Skipped(unknown=1)


def test_missing_segments_are_counted(tmp_path: Path) -> None:
    write(tmp_path, 2, numbered(2, 1, 1))
    write(tmp_path, 5, numbered(5, 1, 1))
    both = [2 * SEGMENT + 1, 5 * SEGMENT + 1]
    assert everything(tmp_path, Skipped(segments=4)) == both
    assert everything(tmp_path, Skipped(segments=2), after=2 * SEGMENT) == both
    assert everything(tmp_path, Skipped(segments=2), after=3 * SEGMENT + 7) == both[1:]
    assert everything(tmp_path, Skipped(), after=5 * SEGMENT) == both[1:]


@pytest.mark.parametrize("replace", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.with_name("other"))])
def test_anything_but_a_file_in_place_of_a_segment_counts_as_missing(
    tmp_path: Path, replace: Callable[[Path], object]
) -> None:
    write(tmp_path, 0, numbered(0, 1, 1))
    segment_path(tmp_path, 0).rename(tmp_path / "other")
    replace(segment_path(tmp_path, 0))
    write(tmp_path, 1, numbered(1, 1, 1))
    assert everything(tmp_path, Skipped(segments=1)) == [SEGMENT + 1]


# Resumes.


def attempts(folder: Path, *points: tuple[int | None, int]) -> None:
    """Write attempts as (resumed step or None, last step), with a point every 100 iterations."""
    for k, (begin, end) in enumerate(points):
        records: list[AnyRecord] = [] if begin is None else [resumed(k, begin, k + 1)]
        first = 100 if begin is None else begin + 100
        records += [scalars(k * SEGMENT + 2 + n, step) for n, step in enumerate(range(first, end + 1, 100))]
        if begin is None:
            records = [scalars(k * SEGMENT + 1, 0), *records]
        write(folder, k, records)


def curve(folder: Path, *, superseded: bool = False) -> list[int]:
    return [r.step for r in read_all(JournalReader(folder, superseded=superseded)) if isinstance(r, Scalars)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(None, 500), (300, 600)], [0, 100, 200, 300, 400, 500, 600]),
        ([(None, 500), (500, 600)], [0, 100, 200, 300, 400, 500, 600]),
        ([(None, 500), (0, 200)], [0, 100, 200]),
        ([(None, 500), (400, 700), (200, 300)], [0, 100, 200, 300]),
        ([(None, 500), (200, 700), (400, 500)], [0, 100, 200, 300, 400, 500]),
        ([(None, 500), (200, 600), (500, 700), (100, 200)], [0, 100, 200]),
        ([(None, 300), (300, 300), (300, 400)], [0, 100, 200, 300, 400]),
    ],
    ids=["one", "at the end", "at 0", "further back", "further on", "on, then back", "an attempt without points"],
)
def test_records_repeated_by_a_later_attempt_are_omitted(
    tmp_path: Path, points: list[tuple[int | None, int]], expected: list[int]
) -> None:
    attempts(tmp_path, *points)
    assert curve(tmp_path) == expected
    everywhere = curve(tmp_path, superseded=True)
    first = [step for begin, end in points for step in range(0 if begin is None else begin + 100, end + 1, 100)]
    assert everywhere == first
    reader = JournalReader(tmp_path)
    kept = read_all(reader)
    assert reader.skipped == Skipped(superseded=len(everywhere) - len(expected))
    assert [r.step for r in kept if isinstance(r, Resumed)] == [begin for begin, _ in points if begin is not None]


def test_a_second_segment_of_the_same_attempt_supersedes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in (1, 2, 3)])
    write(tmp_path, 1, [resumed(1, 200), scalars(SEGMENT + 2, 300)])
    write(tmp_path, 2, [scalars(SEGMENT + 2, 300), scalars(2 * SEGMENT + 1, 400)])
    assert curve(tmp_path) == [100, 200, 300, 400]


def test_rewritten_records_are_superseded_like_those_of_their_original_segment(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1, 100)])
    write(tmp_path, 1, [scalars(2, 200), scalars(3, 300), scalars(SEGMENT + 1, 400)])
    write(tmp_path, 2, [resumed(2, 200), scalars(2 * SEGMENT + 2, 300)])
    assert curve(tmp_path) == [100, 200, 300]
    assert everything(tmp_path, Skipped(superseded=2)) == [1, 2, 2 * SEGMENT + 1, 2 * SEGMENT + 2]


def test_a_follower_learns_of_a_new_attempt_even_if_its_file_was_empty_at_first(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in range(1, 6)])
    segment_path(tmp_path, 1).touch()
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(reader.read(2, live=True)) == [1, 2]
    write(tmp_path, 1, [resumed(1, 300)])
    assert seqs(reader.read(10, live=True)) == [3, SEGMENT + 1]
    assert reader.skipped == Skipped(superseded=2)


# Hostile files.


def test_a_line_of_a_hundred_megabytes_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    with path.open("r+b") as file:
        file.seek(100 << 20, os.SEEK_END)
        file.write(b"\n" + encode(scalars(2)))
    tracemalloc.start()
    try:
        assert everything(tmp_path, Skipped(damaged=1)) == [1, 2]
        assert read_header(tmp_path).run_id == "water"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_an_incomplete_line_of_many_megabytes_is_one_damaged_line(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    with path.open("r+b") as file:
        file.truncate(5 << 20)
    assert everything(tmp_path, Skipped(damaged=1)) == [1]


@pytest.mark.parametrize("before", [0, 1, 300_000, 600_000, 900_000])
def test_lines_of_the_maximum_length_are_read_at_any_offset(tmp_path: Path, before: int) -> None:
    full = [sealed(b'{"kind":"event","seq":%d,"x":"%b"' % (n, b"x" * (MAX_LINE - 49))) for n in (1, 2, 3)]
    assert {len(line) for line in full} == {MAX_LINE}
    write(tmp_path, 0, [b"\n" * before, *full, scalars(4)])
    assert everything(tmp_path, Skipped(unknown=3)) == [4]


@pytest.mark.parametrize("what", ["symlink", "dangling symlink", "FIFO", "folder"])
def test_a_segment_that_is_not_a_regular_file_is_not_read(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    elsewhere = write(tmp_path, 0, numbered(0, 1, 2))
    place = segment_path(folder, 0)
    if what == "FIFO":
        os.mkfifo(place)
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to(elsewhere if what == "symlink" else tmp_path / "nowhere")
    assert read_all(JournalReader(folder)) == []
    assert read_all(JournalReader(folder), live=True) == []
    with pytest.raises(RunNotFound):
        read_header(folder)
    write(folder, 1, numbered(1, 1, 1))
    assert seqs(read_all(JournalReader(folder), live=True)) == [SEGMENT + 1]


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_file_that_cannot_be_read_raises_and_none_of_its_records_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    class Os:
        def __getattr__(self, name: str) -> object:
            return refuse if name == call else getattr(os, name)

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    write(tmp_path, 0, numbered(0, 1, 2))
    write(tmp_path, 1, numbered(1, 1, 1))
    reader = JournalReader(tmp_path)
    assert seqs(reader.read(1, live=True)) == [1]
    with monkeypatch.context() as patch:
        for module in (lines_module, regular_file):
            patch.setattr(module, "os", Os())
        with pytest.raises(RunFolderError, match=r"cannot read .*journal-0.jsonl \(Too many open files"):
            reader.read(10, live=True)
        with pytest.raises(RunFolderError, match=r"cannot read .*journal-1.jsonl"):
            read_header(tmp_path)
    assert seqs(reader.read(10, live=True)) == [2, SEGMENT + 1]
    assert reader.skipped == Skipped()


# The run record.


def test_the_header_is_the_run_record_of_the_newest_segment_that_has_one(tmp_path: Path) -> None:
    write(tmp_path, 0, [])
    assert read_header(tmp_path) == run_record(0)
    write(tmp_path, 1, [])
    assert read_header(tmp_path) == run_record(1)
    segment_path(tmp_path, 2).touch()
    segment_path(tmp_path, 3).write_bytes(encode(run_record(3))[:-1])
    segment_path(tmp_path, 4).write_bytes(b"\x00" * 80 + b"\n" + encode(run_record(4)))
    segment_path(tmp_path, 5).write_bytes(encode(scalars(5 * SEGMENT + 1)))
    assert read_header(tmp_path) == run_record(1)


def test_a_folder_without_a_journal_is_not_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", write(tmp_path, 0, [])):
        if folder == tmp_path:
            segment_path(tmp_path, 0).unlink(missing_ok=True)
            with pytest.raises(RunNotFound):
                read_header(folder)
        elif folder.name == "nowhere":
            with pytest.raises(LookupError, match="nowhere"):
                read_header(folder)
        else:
            with pytest.raises(RunNotFound):
                read_header(folder)


NEWER = b'{"kind":"run","seq":%d,"time":1,"schema":2,"name":{"of":"another shape"}' % SEGMENT


@pytest.mark.parametrize(
    "head",
    [sealed(NEWER), encode(run_record(1, schema=2))],
    ids=["of a shape that is unknown here", "that happens to be readable"],
)
def test_a_run_record_of_a_newer_version_is_rejected_with_advice(tmp_path: Path, head: bytes) -> None:
    write(tmp_path, 0, [])
    segment_path(tmp_path, 1).write_bytes(head)
    with pytest.raises(
        JournalError, match=r"journal-1.jsonl has schema 2, but this version reads only up to 1; update"
    ):
        read_header(tmp_path)


def test_a_damaged_run_record_is_not_mistaken_for_that_of_a_newer_version(tmp_path: Path) -> None:
    write(tmp_path, 0, [])
    flipped = encode(run_record(1)).replace(b'"schema":1', b'"schema":3')
    segment_path(tmp_path, 1).write_bytes(flipped)
    assert read_header(tmp_path) == run_record(0)


# Arbitrary damage.


@st.composite
def journals(draw: st.DrawFn) -> list[list[bytes]]:
    """Draw segments as a writer leaves them: each may begin with the unsynced end of its predecessor."""
    out: list[list[bytes]] = []
    pending: list[Scalars] = []
    for k in range(draw(st.integers(1, 4))):
        own = numbered(k, 1, draw(st.integers(0, 5)))
        records = [*pending, *own]
        out.append(lines_of(k, records))
        pending = records[len(records) - draw(st.integers(0, len(records))) :]
    return out


def damage(data: st.DataObject, segment: bytes) -> bytes:
    kind = data.draw(st.sampled_from(["truncate", "flip", "nuls", "garbage"]))
    at = data.draw(st.integers(0, max(0, len(segment) - 1)))
    if kind == "truncate":
        return segment[:at]
    if kind == "flip" and segment:
        return segment[:at] + bytes([segment[at] ^ data.draw(st.integers(1, 255))]) + segment[at + 1 :]
    if kind == "nuls":
        length = data.draw(st.integers(0, 300))
        return (segment[:at] + bytes(length) + segment[at + length :])[: len(segment)]
    if kind == "garbage":
        return segment[:at] + data.draw(st.binary(max_size=40)) + segment[at:]
    return segment


def repeat(data: st.DataObject, segment: bytes) -> bytes:
    """Duplicate some lines in place."""
    lines = [line + b"\n" for line in segment.split(b"\n")]
    end = data.draw(st.integers(0, len(lines) - 1))
    start = data.draw(st.integers(0, end))
    return b"".join([*lines[:end], *lines[start:end], *lines[end:]])[:-1]


@given(journals(), st.data(), st.integers(1, 7))
@settings(deadline=None, max_examples=150)
def test_after_any_damage_all_intact_records_are_returned_once_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, journal: list[list[bytes]], data: st.DataObject, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    originals = {r.seq: r for k in range(len(journal)) for r in numbered(k, 1, 5)}
    all_lines = {line for lines in journal for line in lines}
    written = {line: seq for seq, r in originals.items() if (line := encode(r)) in all_lines}
    whole: set[int] = set()
    broken = False
    for k, lines in enumerate(journal):
        segment = b"".join(lines)
        for _ in range(data.draw(st.integers(0, 2))):
            segment = damage(data, segment)
        if data.draw(st.booleans()):
            segment = repeat(data, segment)
        segment_path(folder, k).write_bytes(segment)
        left = segment.split(b"\n")
        whole |= {written[line + b"\n"] for line in left[:-1] if line + b"\n" in written}
        broken |= bool(left[-1]) or not {line + b"\n" for line in left if line} <= all_lines
    reader = JournalReader(folder)
    read = read_all(reader, limit=limit)
    assert all(record == originals[record.seq] for record in read)
    assert seqs(read) == sorted(set(seqs(read)))
    assert set(seqs(read)) == whole
    # Only complete lines cut off at the very end of a numbering go unnoticed.
    holes = {seq for seq in written.values() if seq not in whole and any(seq < n < seq + 5 for n in whole)}
    assert bool(reader.skipped.damaged) == broken
    assert reader.skipped.lost == len(holes)
    follower = JournalReader(folder, clock=Clock(), gap_timeout=0)
    assert set(seqs(read_all(follower, live=True, limit=limit))) <= whole


@given(st.lists(st.binary(max_size=120), max_size=6), st.integers(1, 3))
@settings(deadline=None, max_examples=100)
def test_reading_arbitrary_bytes_as_a_journal_never_raises(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    for k, body in enumerate(bodies):
        segment_path(folder, k).write_bytes(body if k % 2 else sealed(body))
    assert read_all(JournalReader(folder), limit=limit) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 9)), max_size=14), st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_a_forged_journal_yields_increasing_numbers_only(
    tmp_path_factory: pytest.TempPathFactory, forged: list[tuple[int, int, int]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    assume(forged)
    for k in range(3):
        mine: list[AnyRecord] = [
            Resumed(seq=s * SEGMENT + n, time=1, step=step, attempt=2) if step > 7 else scalars(s * SEGMENT + n, step)
            for i, (s, n, step) in enumerate(forged)
            if i % 3 == k
        ]
        write(folder, k, mine)
    numbers = seqs(read_all(JournalReader(folder), limit=limit))
    assert numbers == sorted(set(numbers))


def test_alerts_of_superseded_iterations_are_omitted_like_the_points(tmp_path: Path) -> None:
    alerts = [Alert(seq=n, time=1, step=step, title="spike") for n, step in ((2, 100), (4, 200))]
    write(tmp_path, 0, [scalars(1, 100), alerts[0], scalars(3, 200), alerts[1]])
    write(tmp_path, 1, [resumed(1, 100)])
    reader = JournalReader(tmp_path)
    assert seqs(read_all(reader)) == [1, 2, SEGMENT + 1]
    assert reader.skipped == Skipped(superseded=2)


# Many segments.


def test_reading_many_segments_with_gaps_opens_each_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In each segment, record 2 is lost, and record 4 is rewritten to the next segment.
    count = 150
    for segment in range(count):
        rewritten = [] if segment == 0 else numbered(segment - 1, 4, 4)
        write(
            tmp_path,
            segment,
            [*rewritten, *numbered(segment, 1, 1), *numbered(segment, 3, 3), *numbered(segment, 5, 5)],
        )
    opened = 0

    class CountingOs:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def open(self, *arguments: Any) -> int:
            nonlocal opened
            opened += 1
            return os.open(*arguments)

    monkeypatch.setattr(regular_file, "os", CountingOs())
    reader = JournalReader(tmp_path)
    expected = [segment * SEGMENT + n for segment in range(count) for n in (1, 3, 4, 5)]
    expected.remove((count - 1) * SEGMENT + 4)
    assert seqs(read_all(reader)) == expected
    assert reader.skipped == Skipped(lost=count + 1, repeated=count - 1)
    assert opened <= 5 * count


@pytest.mark.parametrize("damaged", [False, True])
def test_a_record_rewritten_after_the_last_live_read_is_found_once_the_trainer_has_ended(
    tmp_path: Path, damaged: bool
) -> None:
    write(tmp_path, 0, [*numbered(0, 1, 1), *numbered(0, 3, 3)])
    path = write(tmp_path, 1, [])
    whole = path.read_bytes() + encode(numbered(0, 2, 2)[0])
    if damaged:
        path.write_bytes(whole.replace(b'"seq":2', b'"seq":\0'))
    reader = JournalReader(tmp_path)
    assert seqs(read_all(reader, live=True)) == [1]
    path.write_bytes(whole)
    assert seqs(read_all(reader)) == [2, 3]
    assert reader.skipped == Skipped(repeated=1)


def test_damage_before_the_own_records_of_a_segment_that_was_temporary_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, [*numbered(0, 1, 1), *numbered(0, 3, 3)])
    path = write(tmp_path, 1, numbered(0, 2, 2))
    whole = path.read_bytes() + encode(numbered(1, 1, 1)[0])
    path.write_bytes(whole.replace(b'"seq":2', b'"seq":\0'))
    reader = JournalReader(tmp_path)
    assert seqs(reader.read(1, live=True)) == [1]
    path.write_bytes(whole)
    assert seqs(read_all(reader, live=True)) == [2, 3, SEGMENT + 1]
    assert reader.skipped == Skipped(repeated=1)
