"""The records that a sink has not received yet, and the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.telemetry_fakes import FakeClock, HandMadeRun, run_record
from telemetry import RunNotFound
from telemetry.delivery.journal_tail import JournalTail
from telemetry.journal.codec import encode
from telemetry.journal.segments import segment_path
from telemetry.journal.writer import JournalWriter
from telemetry.records import Scalars
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe


@pytest.fixture
def run(tmp_path: Path) -> HandMadeRun:
    return HandMadeRun(tmp_path / "run")


def tail_of(run: HandMadeRun, after: int = 0) -> JournalTail:
    clock = FakeClock()
    tail = JournalTail(run.folder, TrainerLivenessProbe(run.folder, clock=clock), clock)
    tail.start_after(after)
    return tail


def pending(tail: JournalTail) -> list[int]:
    return [record.seq for record in tail.pending]


def test_a_folder_without_a_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        JournalTail(tmp_path, TrainerLivenessProbe(tmp_path), FakeClock())


def test_records_after_a_position_are_read(run: HandMadeRun) -> None:
    run.points(10, 20, 30)
    tail = tail_of(run, after=1)
    tail.fill()
    assert pending(tail) == [2, 3]


def test_no_more_is_read_while_records_are_pending(run: HandMadeRun) -> None:
    run.points(10)
    tail = tail_of(run)
    tail.fill()
    run.points(20)
    tail.fill()
    assert pending(tail) == [1]
    tail.pending.clear()
    tail.fill()
    assert pending(tail) == [2]


def test_starting_again_drops_what_was_read(run: HandMadeRun) -> None:
    run.points(10, 20)
    run.close()
    tail = tail_of(run)
    tail.fill()
    assert tail.closed is not None
    tail.start_after(1)
    assert (tail.pending, tail.closed) == ([], None)
    tail.fill()
    assert pending(tail) == [2]


def test_a_run_ends_as_its_journal_says(run: HandMadeRun) -> None:
    run.close("preempted")
    tail = tail_of(run)
    tail.fill()
    closed = tail.end()
    assert closed is not None
    assert closed.status == "preempted"


def test_a_run_whose_trainer_is_alive_has_not_ended(run: HandMadeRun) -> None:
    run.points(10)
    tail = tail_of(run, after=1)
    tail.fill()
    assert tail.end() is None


def test_the_end_of_an_attempt_that_was_resumed_is_not_the_end_of_the_run(run: HandMadeRun) -> None:
    run.close("preempted")
    run.begin(resume_step=0)
    tail = tail_of(run)
    tail.fill()
    tail.pending.clear()
    assert tail.end() is None


@pytest.mark.parametrize("after", [0, 3])
def test_a_run_whose_trainer_died_was_killed_at_the_time_of_its_last_record(run: HandMadeRun, after: int) -> None:
    run.points(10, 20, 30)  # the time of a record equals its iteration
    run.die()
    tail = tail_of(run, after)
    tail.fill()
    tail.pending.clear()
    closed = tail.end()
    assert closed is not None
    assert (closed.status, closed.time) == ("killed", 30)


def test_the_time_of_the_last_of_many_records_counts(run: HandMadeRun) -> None:
    run.points(*range(1, 2502))
    run.die()
    closed = tail_of(run, after=2501).end()
    assert closed is not None
    assert closed.time == 2501


def test_a_line_that_the_trainer_is_still_writing_is_waited_for(run: HandMadeRun) -> None:
    tail = tail_of(run)
    line = encode(Scalars(seq=1, time=1, stream="train", step=1, values={"loss": 1.0}))
    with segment_path(run.folder, 0).open("ab", buffering=0) as file:
        file.write(line[:20])
        tail.fill()
        assert pending(tail) == []
        file.write(line[20:])
    tail.fill()
    assert pending(tail) == [1]


def test_records_after_a_gap_are_waited_for_only_while_the_trainer_is_alive(run: HandMadeRun) -> None:
    with segment_path(run.folder, 0).open("ab") as file:
        file.write(encode(Scalars(seq=2, time=1, stream="train", step=1, values={"loss": 1.0})))
    tail = tail_of(run)
    tail.fill()
    assert pending(tail) == [], "a network file system may show the gap for a moment"
    run.die()
    tail.fill()
    assert pending(tail) == [2]


@pytest.mark.parametrize("orderly", [True, False])
def test_records_written_just_before_the_end_are_pending_first(run: HandMadeRun, orderly: bool) -> None:
    tail = tail_of(run)
    tail.fill()
    run.points(10)
    if orderly:
        run.close()
    else:
        run.die()
    assert tail.end() is None
    assert pending(tail) == [1]
    tail.pending.clear()
    closed = tail.end()
    assert closed is not None
    assert closed.status == ("finished" if orderly else "killed")


def test_only_a_resume_is_a_newer_attempt(run: HandMadeRun) -> None:
    tail = tail_of(run)
    assert not tail.has_newer_attempt()
    # As after a failed fdatasync: the same attempt continues in a new segment.
    run.journal = JournalWriter(run.folder, run_record(run.folder, 1))
    assert not tail.has_newer_attempt()
    run.begin(resume_step=0)
    assert tail.has_newer_attempt()
    assert not tail_of(run).has_newer_attempt()
