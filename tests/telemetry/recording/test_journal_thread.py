"""JournalThread: from a queue to a journal, with a fake delivery supervisor and without a bus."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from support.telemetry_fakes import FaultyDisk, eventually, journal_lines, journal_steps, run_record
from telemetry.alerts.detector import AnomalyDetector
from telemetry.alerts.settings import AlertSettings
from telemetry.delivery.deadline import Deadline
from telemetry.journal.writer import JournalWriter
from telemetry.metrics import Metric
from telemetry.recording.declarations import Declarations
from telemetry.recording.journal_thread import JournalThread
from telemetry.recording.limits import RecordingLimits
from telemetry.recording.record_appender import RecordAppender
from telemetry.recording.record_queue import RecordQueue
from telemetry.records import Closed
from telemetry.run_folder.heartbeat import read_heartbeat


class FakeSupervisor:
    """A delivery supervisor that records how often it is called."""

    names = ("fake",)

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        self.starts = self.supervisions = 0
        self._on_start = on_start

    def start(self) -> None:
        self.starts += 1
        self._on_start()

    def supervise(self) -> None:
        self.supervisions += 1

    def wake(self) -> None: ...

    def finish(self, deadline: Deadline) -> None: ...


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    disk = FaultyDisk()
    monkeypatch.setattr("telemetry.journal.writer.os", disk)
    return disk


Make = Callable[..., JournalThread]


@pytest.fixture
def make(disk: FaultyDisk, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a thread over a journal in ``tmp_path``, by default with the production limits."""
    threads: list[JournalThread] = []

    def make_it(supervisor: FakeSupervisor | None = None, **limits: float) -> JournalThread:
        queue = RecordQueue(tmp_path)
        journal = JournalWriter(tmp_path, run_record(tmp_path))
        declared = Declarations({"train/loss": Metric()})
        appender = RecordAppender(queue.tally, journal, AnomalyDetector({}, AlertSettings()), declared)
        chosen = RecordingLimits(**limits)
        threads.append(JournalThread(tmp_path, queue, journal, appender, supervisor or FakeSupervisor(), limits=chosen))
        return threads[-1]

    yield make_it
    disk.write_error = disk.sync_error = None
    if disk.hangs is not None:
        disk.hangs.set()
    for thread in threads:
        end(thread)


def end(thread: JournalThread, status: str = "finished") -> None:
    thread.queue.close(Closed(seq=0, time=0, status=status))
    if thread.ident is not None:
        thread.join(60)
        assert not thread.is_alive()


def put(thread: JournalThread, *steps: int) -> None:
    for step in steps:
        thread.queue.put(("train",), step, {"train": {"loss": 1.0}})


def no_space() -> OSError:
    return OSError(ENOSPC, os.strerror(ENOSPC))


def test_records_are_written_in_order_and_the_closed_record_last(make: Make, tmp_path: Path) -> None:
    thread = make()
    put(thread, 1, 2)
    thread.start()
    put(thread, 3)
    assert thread.queue.flush(60)
    end(thread, "preempted")
    assert journal_steps(tmp_path) == [1, 2, 3]
    last = journal_lines(tmp_path)[-1]
    assert (last["kind"], last["status"]) == ("closed", "preempted")
    assert (thread.queue.tally.counts().offered, thread.queue.tally.counts().journaled) == (3, 3)
    assert thread.queue.last_seq == 4


def test_deliveries_start_with_the_first_record_before_it_is_in_the_journal(make: Make, tmp_path: Path) -> None:
    in_journal: list[list[int]] = []
    supervisor = FakeSupervisor(on_start=lambda: in_journal.append(journal_steps(tmp_path)))
    thread = make(supervisor)
    thread.start()
    put(thread, 1)
    assert thread.queue.flush(60)
    put(thread, 2)
    assert thread.queue.flush(60)
    assert in_journal == [[]]
    thread.start_deliveries()
    assert supervisor.starts == 1


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="scheduling classes are a feature of Linux")
def test_the_thread_never_preempts_the_training_thread_and_has_the_same_share_of_the_cores(make: Make) -> None:
    scheduling: list[tuple[int, int]] = []
    before = os.sched_getscheduler(0)
    supervisor = FakeSupervisor(
        on_start=lambda: scheduling.append((os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))
    )
    thread = make(supervisor)
    thread.start()
    put(thread, 1)
    assert thread.queue.flush(60)
    assert scheduling == [(os.SCHED_BATCH, os.getpriority(os.PRIO_PROCESS, 0))]
    assert os.sched_getscheduler(0) == before


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="scheduling classes are a feature of Linux")
def test_the_thread_keeps_a_scheduling_class_that_the_user_has_chosen(make: Make) -> None:
    found: list[int] = []
    thread = make(FakeSupervisor(on_start=lambda: found.append(os.sched_getscheduler(0))))

    def train() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        thread.start()

    trainer = threading.Thread(target=train)
    trainer.start()
    trainer.join()
    put(thread, 1)
    assert thread.queue.flush(60)
    assert found == [os.SCHED_IDLE]


def test_deliveries_start_without_a_record_after_the_start_delay(make: Make) -> None:
    supervisor = FakeSupervisor()
    make(supervisor, delivery_start_delay=0.0).start()
    eventually(lambda: supervisor.starts == 1)


def test_running_deliveries_are_supervised_until_the_run_is_closed(make: Make) -> None:
    supervisor = FakeSupervisor()
    thread = make(supervisor, supervise_interval=0.01)
    thread.start()
    put(thread, 1)
    eventually(lambda: supervisor.supervisions >= 2)
    end(thread)
    assert supervisor.starts == 1


def test_deliveries_are_supervised_at_intervals_however_many_records_there_are(make: Make) -> None:
    supervisor = FakeSupervisor()
    thread = make(supervisor, supervise_interval=3600.0)
    thread.start()
    for step in range(1, 6):
        put(thread, step)
        assert thread.queue.flush(60)
    assert supervisor.supervisions <= 1


def test_deliveries_of_a_run_without_records_are_left_to_the_closing_thread(make: Make) -> None:
    supervisor = FakeSupervisor()
    thread = make(supervisor)
    thread.start()
    end(thread)
    assert supervisor.starts == 0
    thread.start_deliveries()
    assert supervisor.starts == 1


def test_a_failed_commit_is_retried_until_it_succeeds(
    make: Make, disk: FaultyDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thread = make(disk_backoff_initial=0.01, disk_backoff_max=0.02)
    thread.start()
    disk.write_error = no_space()
    put(thread, 1, 2)
    before = disk.tries
    eventually(lambda: disk.tries > before + 3)
    disk.write_error = None
    assert thread.queue.flush(60)
    assert journal_steps(tmp_path) == [1, 2]
    texts = [record.message for record in caplog.records]
    assert [("cannot write the journal" in text, "works again" in text) for text in texts] == [
        (True, False),
        (False, True),
    ]


def test_closing_retries_at_once_instead_of_after_the_current_delay(
    make: Make, disk: FaultyDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thread = make(disk_backoff_initial=3600.0, disk_backoff_max=3600.0, supervise_interval=3600.0)
    thread.start()
    disk.write_error = no_space()
    put(thread, 1)
    eventually(lambda: "cannot write the journal" in caplog.text)
    disk.write_error = None
    end(thread)
    assert journal_steps(tmp_path) == [1]


def test_a_hung_commit_can_be_seen_from_other_threads(make: Make, disk: FaultyDisk) -> None:
    thread = make()
    disk.hangs = threading.Event()
    thread.start()
    put(thread, 1)
    assert disk.hung.wait(60)
    assert thread.is_committing
    disk.hangs.set()
    assert thread.queue.flush(60)
    assert not thread.is_committing


def test_heartbeats_are_counted_and_the_last_one_says_that_the_run_is_closed(make: Make, tmp_path: Path) -> None:
    thread = make(heartbeat_interval=0.01)
    thread.start()
    eventually(lambda: (beat := read_heartbeat(tmp_path)) is not None and beat.beat >= 3)
    put(thread, 5)
    end(thread)
    last = read_heartbeat(tmp_path)
    assert last is not None
    assert (last.beat, last.counts.journaled, last.counts.step) == (-1, 1, 5)
