"""The journal writer, on a disk that fails."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.faulty_os import FORGETFUL, FaultyOs, broken, use_as_os
from support.segment_files import Clock, read_all, run_record, scalars, seqs, write
from telemetry import RunFolderError, TelemetryError
from telemetry.journal.codec import MAX_LINE, decode, encode
from telemetry.journal.reader import JournalReader, Skipped, read_header
from telemetry.journal.segments import segment_path, segments
from telemetry.journal.writer import JournalWriter
from telemetry.records import SEQ_PER_SEGMENT, Resumed, Scalars


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    fake = FaultyOs()
    use_as_os(monkeypatch, fake)
    return fake


def add(writer: JournalWriter, count: int = 1) -> None:
    """Queue records numbered by step in the order in which they are queued."""
    for _ in range(count):
        step = writer.added = getattr(writer, "added", 0) + 1  # type: ignore[attr-defined]
        writer.append(lambda seq, step=step: scalars(seq, step))  # type: ignore[misc]


def steps(folder: Path, skipped: Skipped | None = None) -> list[int]:
    reader = JournalReader(folder)
    out = [record.step for record in read_all(reader) if isinstance(record, Scalars)]
    if skipped is not None:
        assert reader.skipped == skipped
    return out


def upto(last: int) -> list[int]:
    return list(range(1, last + 1))


def commit_until_good(writer: JournalWriter, tries: int = 4) -> int:
    """Commit repeatedly as the bus does; return how often it failed."""
    for failures in range(tries):
        try:
            writer.commit()
        except OSError:
            continue
        return failures
    pytest.fail(f"no commit in {tries} tries")


def test_a_segment_begins_with_the_run_record_and_has_one_line_per_record(tmp_path: Path) -> None:
    run = run_record(params={"lr": 0.1})
    writer = JournalWriter(tmp_path, run, clock=lambda: 123)
    add(writer, 2)
    writer.commit()
    lines = segment_path(tmp_path, 0).read_bytes().splitlines(keepends=True)
    assert [decode(line) for line in lines] == [
        msgspec.structs.replace(run, time=123),
        scalars(1, 1),
        scalars(2, 2),
    ]


def test_queued_records_are_on_disk_only_after_a_commit(tmp_path: Path, disk: FaultyOs) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 3)
    assert (writer.pending, steps(tmp_path)) == (3, [])
    writer.commit()
    assert (writer.pending, steps(tmp_path)) == (0, [1, 2, 3])
    assert writer.last_seq == 3


def test_the_records_of_a_commit_are_written_in_one_call(tmp_path: Path, disk: FaultyOs) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 5)
    del disk.writes[:]
    writer.commit()
    assert [data.count(b"\n") for data in disk.writes] == [5]


def test_segments_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        JournalWriter(tmp_path, run_record()).close()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(segment_path(tmp_path, 0).stat().st_mode) == 0o600


def test_the_name_of_each_new_segment_is_durable_once_it_is_created(tmp_path: Path, disk: FaultyOs) -> None:
    synced: list[Path] = []
    disk.fsync = lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink())  # type: ignore[method-assign]
    writer = JournalWriter(tmp_path, run_record())
    assert synced == [tmp_path]
    segment_path(tmp_path, 0).unlink()
    add(writer)
    writer.commit()
    assert synced == [tmp_path] * 2


def test_no_failure_of_the_disk_leaves_an_open_file(tmp_path: Path, disk: FaultyOs) -> None:
    before = os.listdir("/proc/self/fd")
    writer = JournalWriter(tmp_path, run_record())
    for room, sync_faults in ((None, 1), (None, 1), (5, 0), (0, 0), (None, 2)):
        add(writer)
        disk.room, disk.sync_faults = room, sync_faults
        assert commit_fails(writer)
    disk.room, disk.sync_faults = None, 0
    segment_path(tmp_path, max(segments(tmp_path))).unlink()
    writer.commit()
    writer.close()
    assert os.listdir("/proc/self/fd") == before


def test_an_existing_segment_is_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 0, [scalars(1)])
    before = path.read_bytes()
    monkeypatch.setattr("telemetry.journal.writer.segments", lambda folder: [])
    with pytest.raises(FileExistsError):
        JournalWriter(tmp_path, run_record())
    assert path.read_bytes() == before


def test_a_second_writer_opens_the_next_segment(tmp_path: Path) -> None:
    first = JournalWriter(tmp_path, run_record())
    second = JournalWriter(tmp_path, run_record())
    add(first)
    add(second)
    first.commit()
    second.commit()
    assert segments(tmp_path) == [0, 1]
    assert seqs(read_all(JournalReader(tmp_path))) == [1, SEQ_PER_SEGMENT + 1]


def test_the_segment_of_a_resume_begins_with_the_run_record_and_the_resumed_step(
    tmp_path: Path, disk: FaultyOs
) -> None:
    write(tmp_path, 0, [scalars(1, 400)])
    del disk.writes[:]
    writer = JournalWriter(tmp_path, run_record(attempt=2), resumed_step=200, clock=lambda: 9)
    assert len(disk.writes) == 1, "an attempt that has begun has also said where"
    assert writer.pending == 0
    add(writer)
    writer.commit()
    lines = segment_path(tmp_path, 1).read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["kind"] for line in lines] == ["run", "resumed", "scalars"]
    assert decode(lines[1]) == Resumed(seq=SEQ_PER_SEGMENT + 1, time=9, step=200, attempt=2)
    assert decode(lines[2]) == scalars(SEQ_PER_SEGMENT + 2, 1)


def test_only_exact_names_are_segments_and_they_are_ordered_by_number(tmp_path: Path) -> None:
    names = ["journal-10.jsonl", "journal-9.jsonl", "journal-0.jsonl", "journal-00.jsonl", "journal-01.jsonl"]
    names += ["journal-1٢.jsonl", "journal--1.jsonl", "journal-1.jsonl.bak", "Journal-2.jsonl", "journal-1.json"]
    names += ["journal-1234567890.jsonl", "journal-3.jsonl\n"]
    for name in names:
        (tmp_path / name).touch()
    assert segments(tmp_path) == [0, 9, 10]
    assert segments(tmp_path / "no such folder") == []


def test_a_folder_that_cannot_be_listed_is_not_mistaken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("telemetry.journal.segments.os.scandir", scandir)
    with pytest.raises(RunFolderError, match=r"cannot list .* \(Permission denied") as raised:
        segments(tmp_path)
    assert isinstance(raised.value, TelemetryError)
    assert isinstance(raised.value, OSError)


def test_a_too_long_record_uses_no_number_and_affects_no_other(tmp_path: Path, disk: FaultyOs) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer)
    with pytest.raises(ValueError, match="exceeds the"):
        writer.append(lambda seq: Scalars(seq=seq, time=1, stream="x" * MAX_LINE, step=1, values={}))
    add(writer)
    writer.commit()
    assert writer.last_seq == 2
    assert steps(tmp_path, Skipped()) == [1, 2]


COMMIT = 3


def commit_size(folder: Path) -> int:
    """Return the bytes that a commit of three records writes to segment 0."""
    return sum(len(encode(scalars(n))) for n in upto(COMMIT))


def test_a_short_write_at_any_byte_loses_nothing_if_writing_continues(tmp_path: Path, disk: FaultyOs) -> None:
    for k in range(commit_size(tmp_path) + 1):
        folder = tmp_path / str(k)
        writer = JournalWriter(folder, run_record())
        add(writer, COMMIT)
        disk.room = k
        if k < commit_size(tmp_path):
            with pytest.raises(OSError, match="No space"):
                writer.commit()
            assert writer.pending == COMMIT, "what is not synced is not durable"
        add(writer)
        disk.room = None
        writer.commit()
        writer.close()
        assert segments(folder) == [0]
        assert steps(folder) == upto(COMMIT + 1), k


def test_two_short_writes_in_a_row_at_any_bytes_lose_nothing(tmp_path: Path, disk: FaultyOs) -> None:
    size = commit_size(tmp_path)
    for k in range(0, size, 7):
        for again in (0, 1, 2, (7 * k) % size, size - k - 1, size - k, size - k + 1):
            folder = tmp_path / f"{k}-{again}"
            writer = JournalWriter(folder, run_record())
            add(writer, COMMIT)
            for room in (k, again):
                disk.room = room
                commit_fails(writer)
            add(writer)
            disk.room = None
            writer.commit()
            writer.close()
            assert steps(folder) == upto(COMMIT + 1), (k, again)
            shutil.rmtree(folder)


def commit_fails(writer: JournalWriter) -> bool:
    try:
        writer.commit()
    except OSError:
        return True
    return False


def test_a_writer_that_dies_after_a_short_write_loses_only_uncommitted_records(tmp_path: Path, disk: FaultyOs) -> None:
    sizes = [len(encode(scalars(n))) for n in upto(COMMIT + 1)]
    for k in range(commit_size(tmp_path)):
        folder = tmp_path / str(k)
        writer = JournalWriter(folder, run_record())
        add(writer)
        writer.commit()
        add(writer, COMMIT)
        disk.room = k
        assert commit_fails(writer)
        writer.close()
        disk.room = None
        next_attempt = JournalWriter(folder, run_record(attempt=2), resumed_step=100)
        add(next_attempt)
        next_attempt.commit()
        next_attempt.close()
        whole = 1 + sum(sum(sizes[1 : n + 1]) <= k for n in upto(COMMIT))
        torn = sum(sizes[1:whole]) < k
        assert steps(folder, Skipped(damaged=int(torn))) == [*upto(whole), 1], k


@pytest.mark.parametrize("forget", FORGETFUL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("faults", [1, 2, 3])
def test_after_a_failed_sync_every_record_is_read_once_whatever_the_disk_lost(
    tmp_path: Path, disk: FaultyOs, forget: Callable[[bytes, int], bytes], faults: int
) -> None:
    disk.forget = forget
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 4)
    writer.commit()
    add(writer, 5)
    disk.sync_faults = faults
    assert commit_until_good(writer, tries=faults + 1) == faults
    add(writer, 2)
    writer.commit()
    # Syncing the head of a new segment fails as well, and leaves no segment.
    assert segments(tmp_path) == [0, 1]
    assert steps(tmp_path) == upto(11)
    assert seqs(read_all(JournalReader(tmp_path)))[-2:] == [SEQ_PER_SEGMENT + 1, SEQ_PER_SEGMENT + 2]


@pytest.mark.parametrize("forget", FORGETFUL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("second", FORGETFUL, ids=lambda f: f.__name__)
def test_two_segments_in_a_row_may_lose_the_same_records_before_a_third_keeps_them(
    tmp_path: Path,
    disk: FaultyOs,
    forget: Callable[[bytes, int], bytes],
    second: Callable[[bytes, int], bytes],
) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 2)
    writer.commit()
    add(writer, 6)
    disk.forget, disk.sync_faults = forget, 1
    assert commit_fails(writer)
    head = [(run := disk.fdatasync)]

    def fail_after_the_head(fd: int) -> None:
        if os.fstat(fd).st_size > len(encode(run_record(1))) + 20:
            disk.forget, disk.sync_faults = second, 1
            del disk.fdatasync  # type: ignore[method-assign]
            run(fd)
        head[0](fd)

    disk.fdatasync = fail_after_the_head  # type: ignore[method-assign]
    assert commit_fails(writer)
    add(writer, 3)
    writer.commit()
    assert segments(tmp_path) == [0, 1, 2]
    assert steps(tmp_path) == upto(11)


@pytest.mark.parametrize("forget", FORGETFUL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_a_reader_ahead_of_a_failed_sync_gets_no_record_twice(
    tmp_path: Path, disk: FaultyOs, forget: Callable[[bytes, int], bytes], limit: int
) -> None:
    reader = JournalReader(tmp_path, clock=Clock())
    given: list[int] = []
    disk.forget = forget
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 4)
    writer.commit()
    given += seqs(read_all(reader, live=True))
    add(writer, 5)
    disk.room = len(b"".join(encode(scalars(n)) for n in (5, 6, 7))) + 10
    assert commit_fails(writer)
    given += seqs(reader.read(limit, live=True))
    disk.room, disk.sync_faults = None, 1
    assert commit_fails(writer)
    given += seqs(reader.read(limit, live=True))
    add(writer, 2)
    writer.commit()
    given += seqs(read_all(reader, live=True, limit=limit))
    # The last two were numbered while the old segment was still the newest.
    assert given == upto(11)


def test_a_full_disk_at_any_byte_of_a_new_segments_head_leaves_no_file(tmp_path: Path, disk: FaultyOs) -> None:
    head = len(encode(run_record(1)))
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 2)
    segment_path(tmp_path, 0).unlink()
    for k in range(head):
        disk.room = k
        assert commit_fails(writer)
        assert os.listdir(tmp_path) == []
        assert writer.pending == 2
    disk.room = None
    writer.commit()
    assert (segments(tmp_path), steps(tmp_path)) == ([1], [1, 2])


@pytest.mark.parametrize("resumed_step", [None, 4])
def test_a_run_that_cannot_be_opened_leaves_no_segment(
    tmp_path: Path, disk: FaultyOs, resumed_step: int | None
) -> None:
    write(tmp_path, 0, [])
    disk.sync_faults = 1
    with pytest.raises(OSError, match="Input/output"):
        JournalWriter(tmp_path, run_record(), resumed_step=resumed_step)
    disk.room = len(encode(run_record(1))) + 5
    if resumed_step is not None:
        with pytest.raises(OSError, match="No space"):
            JournalWriter(tmp_path, run_record(), resumed_step=resumed_step)
    assert segments(tmp_path) == [0]


def test_a_failed_sync_followed_by_a_failed_close_leaves_no_file(tmp_path: Path, disk: FaultyOs) -> None:
    def close(fd: int) -> None:
        os.close(fd)
        raise broken()

    writer = JournalWriter(tmp_path, run_record())
    add(writer)
    disk.close = close  # type: ignore[attr-defined]
    disk.sync_faults = 1
    assert commit_fails(writer)
    disk.sync_faults = 1
    assert commit_fails(writer)
    assert segments(tmp_path) == [0]
    writer.commit()
    writer.close()
    assert steps(tmp_path) == [1]


def test_a_commit_that_fails_repeatedly_keeps_all_records_in_order(tmp_path: Path, disk: FaultyOs) -> None:
    writer = JournalWriter(tmp_path, run_record())
    disk.room = 0
    for n in upto(20):
        add(writer)
        assert commit_fails(writer)
        assert writer.pending == n
    disk.room = None
    writer.commit()
    assert writer.pending == 0
    assert steps(tmp_path, Skipped()) == upto(20)


def test_writing_continues_in_a_new_segment_after_the_folder_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "water"
    writer = JournalWriter(folder, run_record())
    add(writer, 2)
    writer.commit()
    shutil.rmtree(folder.parent)
    add(writer, 2)
    writer.commit()
    assert segments(folder) == [1]
    assert read_header(folder).run_id == "water"
    assert steps(folder, Skipped(segments=1, lost=2)) == [3, 4]


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved away", "moved away and replaced"])
def test_writing_continues_in_a_new_segment_after_the_segment_is_deleted(tmp_path: Path, how: str) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer)
    writer.commit()
    path = segment_path(tmp_path, 0)
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        copy = tmp_path / "copy"
        shutil.copy(path, copy)
        copy.replace(path)
    else:
        path.rename(tmp_path / "kept")
        if how == "moved away and replaced":
            path.touch()
    add(writer, 2)
    writer.commit()
    assert 1 in segments(tmp_path)
    assert steps(tmp_path)[-2:] == [2, 3]


def test_a_fragment_in_the_old_segment_does_not_affect_the_new_one(tmp_path: Path, disk: FaultyOs) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 2)
    disk.room = 10
    assert commit_fails(writer)
    segment_path(tmp_path, 0).unlink()
    disk.room = None
    writer.commit()
    lines = segment_path(tmp_path, 1).read_bytes().splitlines(keepends=True)
    assert lines[1:] == [encode(scalars(1)), encode(scalars(2))]


def test_records_of_a_file_deleted_during_the_sync_are_written_again(tmp_path: Path, disk: FaultyOs) -> None:
    writer = JournalWriter(tmp_path, run_record())
    add(writer, 2)

    def fdatasync(fd: int) -> None:
        segment_path(tmp_path, 0).unlink(missing_ok=True)

    disk.fdatasync = fdatasync  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError, match="has been removed"):
        writer.commit()
    assert writer.pending == 2
    writer.commit()
    assert (segments(tmp_path), steps(tmp_path)) == ([1], [1, 2])


def test_the_last_number_is_that_of_a_record_even_after_a_new_segment_was_created(
    tmp_path: Path, disk: FaultyOs
) -> None:
    writer = JournalWriter(tmp_path, run_record())
    assert writer.last_seq == 0
    add(writer, 2)
    disk.sync_faults = 1
    assert commit_until_good(writer) == 1
    # Callers that wait for the sinks wait for this record.
    assert writer.last_seq == 2
    add(writer)
    assert writer.last_seq == SEQ_PER_SEGMENT + 1


FAULTS = st.one_of(
    st.just(("good", 0)),
    st.tuples(st.just("full"), st.integers(0, 700)),
    st.tuples(st.just("sync"), st.sampled_from(FORGETFUL)),
    st.just(("deleted", 0)),
)


@given(st.lists(st.tuples(st.integers(1, 4), FAULTS), max_size=12))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_record_is_read_once_and_in_order_whatever_the_disk_does(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, tuple[str, object]]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    disk = FaultyOs()
    with pytest.MonkeyPatch.context() as patch:
        use_as_os(patch, disk)
        writer = JournalWriter(folder, run_record())
        reader = JournalReader(folder, clock=Clock())
        followed: list[int] = []
        gone: set[int] = set()
        offered = 0
        for count, (fault, argument) in history:
            add(writer, count)
            offered += count
            if fault == "full":
                disk.room = argument  # type: ignore[assignment]
            elif fault == "sync":
                disk.sync_faults, disk.forget = 1, argument  # type: ignore[assignment]
            elif fault == "deleted" and segments(folder):
                # Records that were durable only there are gone.
                gone |= set(range(1, offered + 1 - writer.pending))
                segment_path(folder, segments(folder)[-1]).unlink()
            commit_fails(writer)
            disk.room, disk.sync_faults = None, 0
            followed += [r.step for r in read_all(reader, live=True, limit=3) if isinstance(r, Scalars)]
        if writer.pending:
            writer.commit()
        writer.close()
    now = steps(folder)
    followed += [r.step for r in read_all(reader, live=False) if isinstance(r, Scalars)]
    everything = set(range(1, offered + 1))
    assert now == sorted(set(now))
    assert everything - set(now) <= gone
    assert followed == sorted(set(followed))
    # Two consecutive failed syncs may both lose a record before a third file contains it. A follower that reads in
    # between considers it lost, and counts it.
    counted = reader.skipped.lost or reader.skipped.damaged
    assert everything - set(followed) <= gone or (counted and sum(fault == "sync" for _, (fault, _) in history) > 1)
