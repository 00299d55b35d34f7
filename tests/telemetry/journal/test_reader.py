"""The journal's reading side: every record once, in order, whatever happened to the files."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.segment_files import Clock, lines_of, numbered, read_all, resumed, run_record, scalars, sealed, seqs, write
from telemetry import JournalError, RunFolderError, RunNotFound
from telemetry.journal import segment_lines as lines_module
from telemetry.journal.codec import MAX_LINE, encode
from telemetry.journal.reader import PATIENCE, JournalReader, Skipped, read_header
from telemetry.journal.segments import segment_path
from telemetry.records import SEQ_PER_SEGMENT as SEGMENT
from telemetry.records import Alert, AnyRecord, Closed, Resumed, Scalars

EVENT = sealed(b'{"kind":"event","seq":2,"text":"a spike"')


def everything(folder: Path, skipped: Skipped, *, after: int = 0, superseded: bool = False) -> list[int]:
    """The numbers of all records that a finished journal gives, if it also says exactly what it passed over."""
    reader = JournalReader(folder, after=after, superseded=superseded)
    out = seqs(read_all(reader))
    assert reader.skipped == skipped
    return out


# --- tails


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
        assert follower.skipped == Skipped(), "what may still be written is not passed over"
        assert everything(tmp_path, Skipped(damaged=torn)) == list(range(1, whole + 1)), cut

        write(tmp_path, 1, numbered(1, 1, 2))
        assert seqs(read_all(follower, live=True)) == [SEGMENT + 1, SEGMENT + 2], cut
        assert follower.skipped == Skipped(damaged=torn)
        assert everything(tmp_path, Skipped(damaged=torn)) == [
            *range(1, whole + 1),
            SEGMENT + 1,
            SEGMENT + 2,
        ], cut


def test_a_follower_gets_each_record_as_soon_as_its_line_is_ended_at_whatever_bytes_it_looks(tmp_path: Path) -> None:
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


def test_a_tail_without_its_newline_is_not_given_until_it_is_ended(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1), encode(scalars(2))[:-1]])
    follower = JournalReader(tmp_path)
    assert seqs(read_all(follower, live=True)) == [1]
    with path.open("ab") as file:
        file.write(b"\n")
    assert seqs(read_all(follower, live=True)) == [2]
    assert follower.skipped == Skipped()


def test_a_torn_tail_of_a_finished_journal_is_counted_once_however_often_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), encode(scalars(2))[:-5]])
    reader = JournalReader(tmp_path)
    for _ in range(3):
        read_all(reader)
    assert reader.skipped == Skipped(damaged=1)


def test_a_finished_journal_that_grows_after_all_is_read_on_where_reading_ended(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    reader = JournalReader(tmp_path)
    assert seqs(read_all(reader)) == [1]
    with path.open("ab") as file:
        file.write(encode(scalars(2)))
    assert seqs(read_all(reader)) == [2]
    assert reader.skipped == Skipped()


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, [b"\n", scalars(1), b"\n\n", scalars(2), b"\n"])
    assert everything(tmp_path, Skipped()) == [1, 2]


# --- damage and holes


@pytest.mark.parametrize("live", [True, False])
def test_a_fragment_that_was_ended_before_its_record_was_written_again_costs_no_wait(
    tmp_path: Path, live: bool
) -> None:
    write(tmp_path, 0, [scalars(1), encode(scalars(2))[:20] + b"\n", scalars(2), scalars(3)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=live)) == [1, 2, 3]
    assert reader.skipped == Skipped(damaged=1)


def test_a_damaged_line_in_the_middle_is_skipped_and_reported(tmp_path: Path) -> None:
    damaged = encode(scalars(2)).replace(b"train", b"trait")
    write(tmp_path, 0, [scalars(1), damaged, scalars(3)])
    assert everything(tmp_path, Skipped(damaged=1, lost=1)) == [1, 3]


def test_a_damaged_run_record_costs_no_other_record(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    path.write_bytes(b"X" + path.read_bytes())
    assert everything(tmp_path, Skipped(damaged=1)) == [1]


def test_a_hole_in_a_live_journal_is_waited_for_until_patience_is_out(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, 0, [scalars(1), bytes(50) + b"\n", scalars(4), scalars(5)])
    reader = JournalReader(tmp_path, clock=clock)
    assert seqs(reader.read(10, live=True)) == [1]
    clock.now += PATIENCE - 0.1
    assert reader.read(10, live=True) == []
    assert reader.skipped == Skipped()
    clock.now += 0.1
    assert seqs(reader.read(10, live=True)) == [4, 5]
    assert reader.skipped == Skipped(damaged=1, lost=2)


def test_each_hole_is_waited_for_anew(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, 0, [scalars(1), scalars(3), scalars(5)])
    reader = JournalReader(tmp_path, clock=clock, patience=10)
    assert seqs(reader.read(10, live=True)) == [1]
    clock.now += 10
    assert seqs(reader.read(10, live=True)) == [3]
    clock.now += 9
    assert reader.read(10, live=True) == []
    clock.now += 1
    assert seqs(reader.read(10, live=True)) == [5]
    assert reader.skipped == Skipped(lost=2)


def test_a_hole_that_heals_while_it_is_waited_for_costs_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, 0, numbered(0, 1, 4))
    data = path.read_bytes()
    for start in range(len(encode(run_record())), len(data), 13):
        for length in (1, 40, 4096):
            path.write_bytes((data[:start] + bytes(length) + data[start + length :])[: len(data)])
            reader = JournalReader(tmp_path, clock=Clock())
            first = seqs(read_all(reader, live=True))
            path.write_bytes(data)
            assert first + seqs(read_all(reader, live=True)) == [1, 2, 3, 4], (start, length)


def test_nuls_at_the_tail_are_not_yet_there_and_heal(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1), scalars(2)])
    data = path.read_bytes()
    path.write_bytes(data[:-30] + bytes(30) + bytes(500))
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1]
    path.write_bytes(data)
    assert seqs(read_all(reader, live=True)) == [2]
    assert reader.skipped == Skipped()


def test_a_later_segment_fills_a_hole_at_once_and_in_order(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(4), scalars(5)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1]
    write(tmp_path, 1, [*numbered(0, 2, 6), scalars(SEGMENT + 1)])
    assert seqs(read_all(reader, live=True)) == [2, 3, 4, 5, 6, SEGMENT + 1]
    assert reader.skipped == Skipped(repeated=4)
    assert everything(tmp_path, Skipped(repeated=4)) == [1, 2, 3, 4, 5, 6, SEGMENT + 1]


def test_a_hole_is_still_waited_for_while_a_new_segment_does_not_yet_hold_what_goes_before_its_own(
    tmp_path: Path,
) -> None:
    write(tmp_path, 0, [scalars(1), scalars(3)])
    write(tmp_path, 1, [])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1]
    write(tmp_path, 1, [scalars(2), scalars(3)])
    assert seqs(read_all(reader, live=True)) == [2, 3]
    assert reader.skipped == Skipped(repeated=2)


def test_damage_where_another_numbering_begins_is_waited_for_as_it_may_hide_the_end_of_the_old_one(
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


def test_a_hole_is_given_up_when_a_new_segment_has_begun_its_own_records_without_it(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(3)])
    write(tmp_path, 1, [scalars(SEGMENT + 1)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1, 3, SEGMENT + 1]
    assert reader.skipped == Skipped(lost=1)


def test_what_two_segments_lost_comes_from_the_third(tmp_path: Path) -> None:
    write(tmp_path, 0, numbered(0, 1, 3))
    write(tmp_path, 1, [b"torn\n", scalars(5), *numbered(1, 1, 1)])
    write(tmp_path, 2, [*numbered(0, 4, 6), *numbered(1, 1, 2), *numbered(2, 1, 1)])
    own = [SEGMENT + 1, SEGMENT + 2, 2 * SEGMENT + 1]
    assert everything(tmp_path, Skipped(damaged=1, repeated=4)) == [1, 2, 3, 4, 5, 6, *own]


def test_a_hole_in_what_was_written_again_is_counted_too(tmp_path: Path) -> None:
    write(tmp_path, 0, numbered(0, 1, 3))
    write(tmp_path, 1, [scalars(4), b"damaged\n", scalars(6), scalars(SEGMENT + 1)])
    assert everything(tmp_path, Skipped(damaged=1, lost=1)) == [1, 2, 3, 4, 6, SEGMENT + 1]


def test_a_vast_hole_is_counted_without_walking_through_it(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(SEGMENT - 1)])
    assert everything(tmp_path, Skipped(lost=SEGMENT - 3)) == [1, SEGMENT - 1]


def test_a_record_numbered_for_a_later_segment_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(SEGMENT + 5), scalars(2)])
    write(tmp_path, 1, [scalars(SEGMENT + 1)])
    assert everything(tmp_path, Skipped(damaged=1)) == [1, 2, SEGMENT + 1]


def test_a_run_record_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), run_record(), scalars(2)])
    assert everything(tmp_path, Skipped()) == [1, 2]


# --- cursors and limits


def tangled(folder: Path) -> Skipped:
    """A journal with everything in it: a hole filled later, one that is not, an unknown kind, a rewind."""
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


def test_a_journal_with_everything_in_it_is_read_to_the_letter(tmp_path: Path) -> None:
    skipped = tangled(tmp_path)
    assert everything(tmp_path, skipped) == TANGLED


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("limit", [*range(1, 10), 1000])
def test_reading_in_pieces_of_any_size_gives_the_same(tmp_path: Path, limit: int, live: bool) -> None:
    skipped = tangled(tmp_path)
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=live, limit=limit)) == TANGLED
    assert reader.skipped == skipped


@pytest.mark.parametrize("superseded", [True, False])
def test_a_cursor_at_any_record_gives_exactly_what_follows_it(tmp_path: Path, superseded: bool) -> None:
    tangled(tmp_path)
    whole = seqs(read_all(JournalReader(tmp_path, superseded=superseded)))
    assert (len(whole), whole == TANGLED) == ((12, False) if superseded else (8, True))
    for after in {0, *whole, *(n + 1 for n in whole), 2 * SEGMENT, 9 * SEGMENT}:
        for live in (True, False):
            reader = JournalReader(tmp_path, after=after, superseded=superseded, clock=Clock())
            assert seqs(read_all(reader, live=live)) == [n for n in whole if n > after], (after, live)


def test_what_is_lost_before_the_cursor_is_no_loss(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), scalars(4), scalars(5)])
    assert everything(tmp_path, Skipped(), after=4) == [5]
    assert everything(tmp_path, Skipped(lost=1), after=2) == [4, 5]


def test_a_follower_that_starts_before_there_is_a_journal_finds_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    reader = JournalReader(folder)
    assert reader.read(10, live=True) == []
    folder.mkdir()
    assert reader.read(10, live=True) == []
    write(folder, 0, numbered(0, 1, 2))
    assert seqs(reader.read(10, live=True)) == [1, 2]


def test_an_empty_journal_file_gives_nothing_and_is_no_run(tmp_path: Path) -> None:
    segment_path(tmp_path, 0).touch()
    assert everything(tmp_path, Skipped()) == []
    assert read_all(JournalReader(tmp_path), live=True) == []
    with pytest.raises(RunNotFound, match=r"no run in .*: it holds no journal-<k>.jsonl with a run record"):
        read_header(tmp_path)
    write(tmp_path, 1, numbered(1, 1, 1))
    assert everything(tmp_path, Skipped()) == [SEGMENT + 1]


def test_records_of_unknown_kinds_are_counted_and_leave_no_hole(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), EVENT, scalars(3)])
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(read_all(reader, live=True)) == [1, 3]
    assert reader.skipped == Skipped(unknown=1)


def test_segments_that_are_gone_are_counted(tmp_path: Path) -> None:
    write(tmp_path, 2, numbered(2, 1, 1))
    write(tmp_path, 5, numbered(5, 1, 1))
    both = [2 * SEGMENT + 1, 5 * SEGMENT + 1]
    assert everything(tmp_path, Skipped(segments=4)) == both
    assert everything(tmp_path, Skipped(segments=2), after=2 * SEGMENT) == both
    assert everything(tmp_path, Skipped(segments=2), after=3 * SEGMENT + 7) == both[1:]
    assert everything(tmp_path, Skipped(), after=5 * SEGMENT) == both[1:]


# --- resumes


def attempts(folder: Path, *points: tuple[int | None, int]) -> None:
    """Write attempts that begin behind an iteration (None: anew) and have points every 100 up to another."""
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
def test_what_a_later_attempt_did_again_is_left_out(
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


def test_an_attempt_that_went_on_in_a_second_segment_supersedes_nothing_by_that(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in (1, 2, 3)])
    write(tmp_path, 1, [resumed(1, 200), scalars(SEGMENT + 2, 300)])
    write(tmp_path, 2, [scalars(SEGMENT + 2, 300), scalars(2 * SEGMENT + 1, 400)])
    assert curve(tmp_path) == [100, 200, 300, 400]


def test_records_written_again_are_superseded_as_those_of_the_segment_they_were_numbered_for(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1, 100)])
    write(tmp_path, 1, [scalars(2, 200), scalars(3, 300), scalars(SEGMENT + 1, 400)])
    write(tmp_path, 2, [resumed(2, 200), scalars(2 * SEGMENT + 2, 300)])
    assert curve(tmp_path) == [100, 200, 300]
    assert everything(tmp_path, Skipped(superseded=2)) == [1, 2, 2 * SEGMENT + 1, 2 * SEGMENT + 2]


def test_a_follower_learns_where_a_new_attempt_began_also_when_its_file_was_empty_at_first(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in range(1, 6)])
    segment_path(tmp_path, 1).touch()
    reader = JournalReader(tmp_path, clock=Clock())
    assert seqs(reader.read(2, live=True)) == [1, 2]
    write(tmp_path, 1, [resumed(1, 300)])
    assert seqs(reader.read(10, live=True)) == [3, SEGMENT + 1]
    assert reader.skipped == Skipped(superseded=2)


# --- hostile files


def test_a_line_of_a_hundred_megabytes_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
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


def test_a_tail_of_many_megabytes_is_one_damaged_line(tmp_path: Path) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    with path.open("r+b") as file:
        file.truncate(5 << 20)
    assert everything(tmp_path, Skipped(damaged=1)) == [1]


@pytest.mark.parametrize("before", [0, 1, 300_000, 600_000, 900_000])
def test_lines_of_the_greatest_length_are_read_wherever_they_begin(tmp_path: Path, before: int) -> None:
    full = [sealed(b'{"kind":"event","seq":%d,"x":"%b"' % (n, b"x" * (MAX_LINE - 49))) for n in (1, 2, 3)]
    assert {len(line) for line in full} == {MAX_LINE}
    write(tmp_path, 0, [b"\n" * before, *full, scalars(4)])
    assert everything(tmp_path, Skipped(unknown=3)) == [4]


@pytest.mark.parametrize("what", ["symlink", "dangling symlink", "FIFO", "folder"])
def test_what_is_no_regular_file_is_not_followed(tmp_path: Path, what: str) -> None:
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
def test_a_file_that_cannot_be_read_now_is_an_error_and_nothing_of_it_is_passed_over(
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
        patch.setattr(lines_module, "os", Os())
        with pytest.raises(RunFolderError, match=r"journal-0.jsonl cannot be read .Too many open files"):
            reader.read(10, live=True)
        with pytest.raises(RunFolderError, match=r"journal-1.jsonl cannot be read"):
            read_header(tmp_path)
    assert seqs(reader.read(10, live=True)) == [2, SEGMENT + 1]
    assert reader.skipped == Skipped()


# --- the run record


def test_the_run_record_is_that_of_the_newest_segment_that_has_one(tmp_path: Path) -> None:
    write(tmp_path, 0, [])
    assert read_header(tmp_path) == run_record(0)
    write(tmp_path, 1, [])
    assert read_header(tmp_path) == run_record(1)
    segment_path(tmp_path, 2).touch()
    segment_path(tmp_path, 3).write_bytes(encode(run_record(3))[:-1])
    segment_path(tmp_path, 4).write_bytes(b"\x00" * 80 + b"\n" + encode(run_record(4)))
    segment_path(tmp_path, 5).write_bytes(encode(scalars(5 * SEGMENT + 1)))
    assert read_header(tmp_path) == run_record(1)


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
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
def test_a_run_record_of_a_newer_version_is_refused_with_what_to_do(tmp_path: Path, head: bytes) -> None:
    write(tmp_path, 0, [])
    segment_path(tmp_path, 1).write_bytes(head)
    with pytest.raises(JournalError, match=r"journal-1.jsonl has schema 2, this version reads up to 1: update"):
        read_header(tmp_path)


def test_a_damaged_run_record_is_not_taken_for_that_of_a_newer_version(tmp_path: Path) -> None:
    write(tmp_path, 0, [])
    flipped = encode(run_record(1)).replace(b'"schema":1', b'"schema":3')
    segment_path(tmp_path, 1).write_bytes(flipped)
    assert read_header(tmp_path) == run_record(0)


# --- anything at all


@st.composite
def journals(draw: st.DrawFn) -> list[list[bytes]]:
    """Segments as a writer leaves them: each begins with the end of the one before, if that could not be synced."""
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
    """Repeat some lines right behind themselves."""
    lines = [line + b"\n" for line in segment.split(b"\n")]
    end = data.draw(st.integers(0, len(lines) - 1))
    start = data.draw(st.integers(0, end))
    return b"".join([*lines[:end], *lines[start:end], *lines[end:]])[:-1]


@given(journals(), st.data(), st.integers(1, 7))
@settings(deadline=None, max_examples=150)
def test_whatever_is_done_to_the_bytes_nothing_is_invented_or_doubled_and_what_is_whole_is_given(
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
    # Only of whole lines that were cut off the very end of a numbering can nobody know.
    holes = {seq for seq in written.values() if seq not in whole and any(seq < n < seq + 5 for n in whole)}
    assert bool(reader.skipped.damaged) == broken
    assert reader.skipped.lost == len(holes)
    follower = JournalReader(folder, clock=Clock(), patience=0)
    assert set(seqs(read_all(follower, live=True, limit=limit))) <= whole


@given(st.lists(st.binary(max_size=120), max_size=6), st.integers(1, 3))
@settings(deadline=None, max_examples=100)
def test_no_bytes_make_reading_a_journal_fail(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    for k, body in enumerate(bodies):
        segment_path(folder, k).write_bytes(body if k % 2 else sealed(body))
    assert read_all(JournalReader(folder), limit=limit) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 9)), max_size=14), st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_a_forged_journal_gives_no_number_twice_and_never_goes_back(
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


def test_alerts_of_what_was_superseded_are_left_out_with_its_points(tmp_path: Path) -> None:
    alerts = [Alert(seq=n, time=1, step=step, title="spike") for n, step in ((2, 100), (4, 200))]
    write(tmp_path, 0, [scalars(1, 100), alerts[0], scalars(3, 200), alerts[1]])
    write(tmp_path, 1, [resumed(1, 100)])
    reader = JournalReader(tmp_path)
    assert seqs(read_all(reader)) == [1, 2, SEGMENT + 1]
    assert reader.skipped == Skipped(superseded=2)
