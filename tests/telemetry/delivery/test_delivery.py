"""Delivery to one sink: in order and exactly once, whatever happens to the sink, the trainer or the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.telemetry_fakes import (
    DEAD,
    FOREIGN,
    METRICS,
    Backend,
    FakeClock,
    HandMadeRun,
    MemorySink,
    beat,
    run_record,
    sink_for,
)
from telemetry import Metric, Settings
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.receipt import receipt
from telemetry.journal.reader import read_header
from telemetry.journal.segments import segment_path
from telemetry.journal.writer import JournalWriter
from telemetry.plugins.registry import Plugin, Sink
from telemetry.records import Closed, RunRecord
from telemetry.run_folder.heartbeat import Counts
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.sink_progress import progress_path, read_progress, write_progress
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe
from telemetry.sink_api import Record, Resumed, Scalars, SinkRejected, SinkUnavailable, hookimpl

SETTINGS = Settings(poll=2.0, linger=600.0)


class StuckError(BaseException):
    """The delivery has waited more often than any test expects."""


class Driver:
    """A delivery on a fake clock; the n-th action passed to ``run`` happens at the n-th wait.

    Attributes:
        waits: the seconds of each wait.
        logged: the lines logged.
        limit: number of waits before the test fails.
    """

    def __init__(self, folder: Path, sink: Sink | Backend, *, follow: bool = True, **more: Any) -> None:
        self.clock = FakeClock()
        self.waits: list[float] = []
        self.logged: list[str] = []
        self.then: Iterator[Callable[[], object]] = iter(())
        self.limit = 200
        self.stopped = False
        self.delivery = Delivery(
            folder,
            sink_for(sink) if isinstance(sink, Backend) else sink,
            more.pop("settings", SETTINGS),
            follow=follow,
            wait=self._wait,
            stop=lambda: self.stopped,
            log=self.logged.append,
            clock=self.clock,
            jitter=more.pop("jitter", lambda: 1.0),
            **more,
        )

    def run(self, *then: Callable[[], object]) -> DeliveryOutcome:
        assert self.delivery.lease.try_acquire()
        self.then = iter(then)
        return self.delivery.run()

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.now += seconds
        if len(self.waits) > self.limit:
            raise StuckError
        action = next(self.then, None)
        if action is not None:
            action()


@pytest.fixture
def run(tmp_path: Path) -> HandMadeRun:
    return HandMadeRun(tmp_path / "run")


@pytest.fixture
def backend() -> Backend:
    return Backend()


def sync(run: HandMadeRun, backend: Backend, **more: Any) -> DeliveryOutcome:
    """Deliver all current records, as ``telemetry sync`` does."""
    return Driver(run.folder, backend, follow=False, **more).run()


# In order and exactly once.


def test_all_records_are_delivered_once_and_in_order_and_the_run_is_closed(run: HandMadeRun, backend: Backend) -> None:
    seqs = run.points(*range(1, 2501))
    run.close("finished")
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.seqs() == seqs
    assert backend.closed == ["finished"]
    assert backend.calls == [1000, 1000, 500]
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert (progress.state, progress.cursor.accepted, progress.cursor.durable) == ("closed", seqs[-1], seqs[-1])
    assert progress.cursor.closed == "finished"


def test_records_written_between_two_polls_form_one_batch(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: run.points(2, 3), lambda: run.points(4, 5, 6), run.close) is DeliveryOutcome.COMPLETE
    assert backend.calls == [1, 2, 3]
    assert backend.steps() == [1, 2, 3, 4, 5, 6]
    assert driver.waits == [2.0, 2.0, 2.0]


def test_the_sink_receives_the_run_record_as_declared(run: HandMadeRun, backend: Backend) -> None:
    run.close()
    sync(run, backend)
    (opened,) = backend.runs
    assert opened == read_header(run.folder)
    assert opened.metrics == METRICS


def test_a_second_sync_delivers_nothing_twice(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2, 3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_run_in_progress_is_delivered_up_to_its_last_record(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert backend.steps() == [1, 2]
    assert backend.closed == []
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_run_without_records_is_opened_and_closed(run: HandMadeRun, backend: Backend) -> None:
    run.close("failed")
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert (backend.held, backend.closed) == ([], ["failed"])


def test_the_lease_is_released_at_the_end(run: HandMadeRun, backend: Backend) -> None:
    run.close()
    sync(run, backend)
    assert Lease(run.folder / "sinks", "memory").try_acquire()


# Restarts.


def crash_in_write(run: HandMadeRun, backend: Backend, call: int) -> None:
    """Let a delivery crash in a call of ``sink_write``, after the backend has stored the batch."""

    class CrashError(BaseException):
        pass

    def crash() -> None:
        raise CrashError

    backend.fails_after = [*[None] * (call - 1), CrashError()]
    with pytest.raises(CrashError):
        Driver(run.folder, backend).run(crash)
    backend.crash()


def test_after_a_crash_before_the_cursor_is_saved_delivery_continues_after_the_last_record_of_the_sink(
    run: HandMadeRun, backend: Backend
) -> None:
    seqs = run.points(*range(1, 2501))
    run.close()
    crash_in_write(run, backend, call=2)
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.cursor.accepted == 1000
    assert len(backend.held) == 2000
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.seqs() == seqs


def test_a_sink_that_does_not_know_its_position_continues_at_the_cursor(run: HandMadeRun, backend: Backend) -> None:
    backend.reports_last_seq = False
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_sink_that_reports_to_be_empty_receives_all_records(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    backend.held.clear()
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_sink_that_is_behind_the_cursor_receives_the_missing_records_again(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1, 2, 3, 4)
    sync(run, backend)
    del backend.held[2:]
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3, 4]


def test_records_accepted_but_not_durable_are_delivered_again_after_a_crash(run: HandMadeRun, backend: Backend) -> None:
    backend.buffers = True
    backend.reports_last_seq = False
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert (progress.cursor.accepted, progress.cursor.durable) == (2, 0)
    backend.crash()
    run.points(3)
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: setattr(driver, "stopped", True)) is DeliveryOutcome.GAVE_UP
    assert backend.calls[-1:] == [3]
    backend.crash()
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]
    # All records accepted by a sink that closed its run without an error are durable.
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_records_that_a_crash_may_have_lost_count_as_pending(run: HandMadeRun, backend: Backend) -> None:
    backend.buffers = True
    backend.reports_last_seq = False
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert [(sink.delivered, sink.pending) for sink in receipt(run.folder, Counts()).sinks] == [(2, 0)]
    backend.crash()
    backend.faults = [SinkUnavailable("no network")]
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: setattr(driver, "stopped", True)) is DeliveryOutcome.GAVE_UP
    assert [(sink.delivered, sink.pending) for sink in receipt(run.folder, Counts()).sinks] == [(0, 2)]


def test_each_destination_has_its_own_cursor(run: HandMadeRun, backend: Backend) -> None:
    other = Backend(destination="elsewhere", reports_last_seq=False)
    backend.reports_last_seq = False
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert sync(run, other) is DeliveryOutcome.CAUGHT_UP
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert sync(run, other) is DeliveryOutcome.COMPLETE
    assert backend.steps() == other.steps() == [1, 2, 3]
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert sorted(progress.cursors) == ["elsewhere", "memory"]


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 50, b'{"cursors": 7}', b"[" * 100_000])
def test_a_corrupt_progress_file_is_treated_as_missing(run: HandMadeRun, backend: Backend, content: bytes) -> None:
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    progress_path(run.folder, "memory").write_bytes(content)
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_temporary_files_of_killed_processes_are_removed(run: HandMadeRun, backend: Backend) -> None:
    left = [run.folder / "sinks" / f".memory.{name}.4711.0.tmp" for name in ("json", "lease-1")]
    for path in left:
        path.touch()
    run.points(1)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert not any(path.exists() for path in left)


def test_a_progress_file_that_cannot_be_written_is_reported_once_and_does_not_stop_delivery(
    run: HandMadeRun, backend: Backend
) -> None:
    progress_path(run.folder, "memory").mkdir()
    run.points(1, 2)
    run.close()
    driver = Driver(run.folder, backend)
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2]
    assert len([line for line in driver.logged if "cannot save the progress of memory" in line]) == 1


def test_a_durable_number_beyond_the_last_record_written_is_not_trusted(run: HandMadeRun, backend: Backend) -> None:
    backend.reports_last_seq = False
    run.points(1, 2)
    backend.durable_excess = 10**6
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    run.points(3)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert backend.steps() == [1, 2, 3]


# Failures of the sink.


def test_a_failing_sink_is_retried_with_growing_delays_and_new_instances(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)

    def restore() -> None:
        backend.down = None

    assert driver.run(*[lambda: None] * 8, restore, run.close) is DeliveryOutcome.COMPLETE
    assert driver.waits[:9] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert len(backend.sinks) == 10
    assert backend.steps() == [1, 2]
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.retries == 9
    assert progress.last_error == "memory of fakes 1.0: SinkUnavailable: no network"


def test_a_failure_and_the_recovery_are_each_logged_once(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)

    def restore() -> None:
        backend.down = None

    driver.run(*[lambda: None] * 3, restore, run.close)
    assert driver.logged == [
        "delivery to memory of fakes 1.0 failed (SinkUnavailable: no network); retrying",
        "delivery to memory of fakes 1.0 works again",
    ]


def test_retry_delays_are_shortened_by_random_jitter(run: HandMadeRun, backend: Backend) -> None:
    backend.down = SinkUnavailable("no network")
    jitter = iter([0.0, 0.5, 1.0])
    driver = Driver(run.folder, backend, jitter=lambda: next(jitter))

    def stop() -> None:
        driver.stopped = True

    driver.run(lambda: None, lambda: None, stop)
    assert driver.waits == [0.5, 1.5, 4.0]


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(0), KeyboardInterrupt(), GeneratorExit()])
def test_any_exception_raised_by_a_sink_is_retried(run: HandMadeRun, backend: Backend, error: BaseException) -> None:
    run.points(1, 2)
    run.close()
    backend.faults = [error]
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2]


def test_records_accepted_before_a_failure_are_not_delivered_again(run: HandMadeRun, backend: Backend) -> None:
    run.points(*range(1, 2501))
    run.close()
    backend.faults = [None, SinkUnavailable("a hiccup"), None]
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == list(range(1, 2501))


def test_delays_grow_although_the_sink_accepts_the_same_first_batch_after_each_failure(
    run: HandMadeRun, backend: Backend
) -> None:
    backend.reports_last_seq = False
    backend.buffers = True
    run.points(*range(1, 1501))
    backend.faults = [None, RuntimeError("poison")] * 5
    driver = Driver(run.folder, backend)

    def stop() -> None:
        driver.stopped = True

    driver.run(*[lambda: None] * 4, stop)
    assert driver.waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_sink_that_fails_to_close_is_retried_with_growing_delays_for_linger(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)
    run.close()
    backend.close_fails = RuntimeError("no")
    driver = Driver(run.folder, backend, settings=Settings(linger=100))
    assert driver.run() is DeliveryOutcome.GAVE_UP
    assert driver.waits[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert backend.steps() == [1]
    assert len([line for line in driver.logged if "retrying" in line]) == 1


def test_a_failure_after_a_recovery_is_retried_after_the_initial_delay(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.faults = [SinkUnavailable("a hiccup")] * 3 + [None, SinkUnavailable("another")]
    driver = Driver(run.folder, backend)
    nothing = [lambda: None] * 3
    driver.run(*nothing, lambda: run.points(2), lambda: None, run.close)
    assert driver.waits == [1.0, 2.0, 4.0, 2.0, 1.0, 2.0]
    assert backend.steps() == [1, 2]


def test_a_sink_with_a_constant_backlog_recovers_from_a_failure(run: HandMadeRun, backend: Backend) -> None:
    run.points(*range(1, 5001))
    run.close()
    backend.faults = [SinkUnavailable("down")] * 3 + [None, None, SinkUnavailable("down again")]
    driver = Driver(run.folder, backend)
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert driver.waits == [1.0, 2.0, 4.0, 1.0]
    assert [line.rpartition(" ")[2] for line in driver.logged] == ["retrying", "again", "retrying", "again"]


def test_linger_starts_again_after_a_recovery(run: HandMadeRun, backend: Backend) -> None:
    run.points(*range(1, 3001))
    run.close()
    fault = SinkUnavailable("down")
    # Each outage takes 7 s, and both together more than linger.
    backend.faults = [fault, fault, fault, None, fault, fault, fault]
    driver = Driver(run.folder, backend, follow=False, settings=Settings(linger=10))
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert driver.waits == [1.0, 2.0, 4.0] * 2


def test_recovery_is_logged_even_without_new_records(run: HandMadeRun, backend: Backend) -> None:
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)

    def restore() -> None:
        backend.down = None

    def fail_once() -> None:
        backend.faults = [SinkUnavailable("another")]
        run.points(1)

    assert driver.run(lambda: None, restore, fail_once, lambda: None, run.close) is DeliveryOutcome.COMPLETE
    assert driver.waits == [1.0, 2.0, 2.0, 1.0, 2.0]
    assert [line for line in driver.logged if "works again" in line] == [
        "delivery to memory of fakes 1.0 works again"
    ] * 2


def test_delivery_never_gives_up_while_the_trainer_is_alive(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend, settings=Settings(linger=10))

    def restore() -> None:
        backend.down = None

    assert driver.run(*[lambda: None] * 150, restore, run.close) is DeliveryOutcome.COMPLETE
    assert sum(driver.waits) > 150 * 50


def test_delivery_gives_up_linger_seconds_after_the_death_of_the_trainer(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend, settings=Settings(linger=300))
    assert driver.run(*[lambda: None] * 20, run.die) is DeliveryOutcome.GAVE_UP
    alone = sum(driver.waits[21:])
    assert 240 <= alone <= 360
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.state == "retrying"


def test_a_sync_gives_up_after_linger(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend, follow=False, settings=Settings(linger=30))
    assert driver.run() is DeliveryOutcome.GAVE_UP
    assert 30 <= sum(driver.waits) <= 63


def test_delivery_ends_on_request(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    driver = Driver(run.folder, backend)

    def stop() -> None:
        driver.stopped = True

    assert driver.run(stop) is DeliveryOutcome.GAVE_UP
    assert backend.closed == []


@pytest.mark.parametrize("nonsense", [None, "memory", 7, ("memory", 3)])
def test_an_invalid_result_of_sink_open_is_an_error_and_no_record_is_delivered(
    run: HandMadeRun, backend: Backend, nonsense: object
) -> None:
    run.points(1)

    class InvalidSink(MemorySink):
        def __init__(self) -> None:
            super().__init__(backend)

        @hookimpl
        def sink_open(self, run: RunRecord) -> Any:
            return nonsense

    sink = Sink("memory", {}, Plugin("memory", InvalidSink, "fakes 1.0"))
    driver = Driver(run.folder, sink, follow=False, settings=Settings(linger=10))
    assert driver.run() is DeliveryOutcome.GAVE_UP
    assert backend.calls == []
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert f"sink_open of memory of fakes 1.0 returned {nonsense!r}" in progress.last_error


# Records that a sink rejects.


def test_only_the_rejected_records_of_a_batch_are_set_aside(run: HandMadeRun, backend: Backend) -> None:
    seqs = run.points(*range(1, 1501))
    run.close()
    bad = {seqs[0], seqs[41], seqs[42], seqs[998], seqs[1001], seqs[1499]}
    backend.bad = frozenset(bad)
    driver = Driver(run.folder, backend)
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert backend.seqs() == [seq for seq in seqs if seq not in bad]
    aside = (run.folder / "sinks" / "memory.rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["seq"] for line in aside} == bad
    assert len(aside) == len(bad)
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.cursor.rejected == len(bad)
    assert progress.cursor.accepted == seqs[-1]
    assert "is invalid" in progress.last_error
    assert driver.waits == [], "a rejected record is not retried"
    assert len(backend.calls) < 200
    (line,) = receipt(run.folder, Counts()).sinks
    assert (line.delivered, line.pending) == (1494, 0)


def test_a_record_set_aside_is_not_counted_again_by_a_later_sync(run: HandMadeRun, backend: Backend) -> None:
    seqs = run.points(1, 2, 3)
    backend.bad = frozenset(seqs[1:])
    for _ in range(3):
        assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.cursor.rejected == 2
    assert len((run.folder / "sinks" / "memory.rejected.jsonl").read_text().splitlines()) == 2
    assert backend.steps() == [1]


def test_after_rejecting_the_first_record_a_sink_still_receives_the_others(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.faults = [SinkRejected("never")]
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: run.points(2), run.close) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [2]


def test_a_rejected_run_ends_its_delivery_with_the_message_of_the_sink(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.refuses = SinkRejected("this project is archived")
    driver = Driver(run.folder, backend)
    assert driver.run() is DeliveryOutcome.REJECTED
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert (progress.state, progress.last_error) == (
        "refused",
        "memory of fakes 1.0: SinkRejected: this project is archived",
    )
    assert any("this project is archived" in line and "telemetry sync" in line for line in driver.logged)
    assert Lease(run.folder / "sinks", "memory").try_acquire()


def test_a_rejected_run_can_be_delivered_once_the_cause_is_fixed(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    run.close()
    backend.refuses = SinkRejected("this project is archived")
    assert sync(run, backend) is DeliveryOutcome.REJECTED
    backend.refuses = None
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1]


# The end of the trainer.


def test_when_the_trainer_is_killed_its_records_are_delivered_and_the_run_is_closed_as_killed(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)

    def write_and_die() -> None:
        run.points(*range(2, 2002))
        run.die()

    assert Driver(run.folder, backend).run(write_and_die) is DeliveryOutcome.COMPLETE
    assert backend.steps() == list(range(1, 2002))
    assert backend.closed == ["killed"]


def test_the_run_is_closed_with_the_time_and_reason_in_the_journal(run: HandMadeRun, backend: Backend) -> None:
    run.journal.append(lambda seq: Closed(seq=seq, time=1234, status="failed", reason="out of luck"))
    run.journal.commit()
    sync(run, backend)
    assert (backend.closed, backend.ends) == (["failed"], [(1234, "out of luck")])


def test_a_killed_run_ends_at_the_time_of_its_last_record_even_if_nothing_is_pending(
    run: HandMadeRun, backend: Backend
) -> None:
    # In these runs the time of a record equals its iteration.
    run.points(7, 500)
    run.die()
    sync(run, backend)
    sync(run, backend)
    assert backend.steps() == [7, 500]
    assert backend.closed == ["killed", "killed"]
    assert backend.ends == [(500, "the trainer ended without closing the run")] * 2


def test_a_killed_run_without_records_ends_when_it_started(run: HandMadeRun, backend: Backend) -> None:
    run.die()
    sync(run, backend)
    assert backend.ends == [(read_header(run.folder).time, "the trainer ended without closing the run")]


@pytest.mark.parametrize(("end", "status"), [(HandMadeRun.die, "killed"), (HandMadeRun.close, "finished")])
def test_records_written_after_the_last_read_are_delivered_before_the_run_is_closed(
    run: HandMadeRun, backend: Backend, end: Callable[[HandMadeRun], object], status: str
) -> None:
    run.points(1)

    class Probe(TrainerLivenessProbe):
        calls = 0

        def is_alive(self) -> bool | None:
            self.calls += 1
            if self.calls == 3:
                # The journal has just been read; the trainer ends before this check.
                run.points(2)
                end(run)
            return super().is_alive()

    assert Driver(run.folder, backend, liveness=Probe(run.folder)).run() is DeliveryOutcome.COMPLETE
    assert (backend.steps(), backend.closed) == ([1, 2], [status])


def test_a_torn_last_line_of_a_killed_trainer_is_ignored(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    with segment_path(run.folder, 0).open("ab") as file:
        file.write(b'{"kind":"scalars","seq":3')
    run.die()
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert (backend.steps(), backend.closed) == ([1, 2], ["killed"])


def test_a_trainer_that_closes_its_run_and_stays_alive_does_not_count_as_killed(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)
    assert Driver(run.folder, backend).run(lambda: run.close("preempted")) is DeliveryOutcome.COMPLETE
    assert backend.closed == ["preempted"]


def test_a_trainer_on_another_machine_is_watched_for_a_minute_before_its_run_counts_as_killed(
    tmp_path: Path, backend: Backend
) -> None:
    run = HandMadeRun(tmp_path / "run", FOREIGN)
    run.points(1)
    driver = Driver(run.folder, backend, follow=False)
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert backend.closed == ["killed"]
    assert 60 <= sum(driver.waits) <= 62


def test_a_run_with_a_heartbeat_from_another_machine_stays_open(tmp_path: Path, backend: Backend) -> None:
    run = HandMadeRun(tmp_path / "run", FOREIGN)
    run.points(1)
    driver = Driver(run.folder, backend, follow=False)
    assert driver.run(*[lambda: None] * 9, lambda: beat(run.folder, FOREIGN, beat=2)) is DeliveryOutcome.CAUGHT_UP
    assert backend.closed == []
    assert len(driver.waits) == 10


def test_watching_a_trainer_on_another_machine_can_be_stopped(tmp_path: Path, backend: Backend) -> None:
    run = HandMadeRun(tmp_path / "run", FOREIGN)
    run.points(1)
    driver = Driver(run.folder, backend, follow=False)

    def stop() -> None:
        driver.stopped = True

    assert driver.run(stop) is DeliveryOutcome.GAVE_UP
    assert len(driver.waits) == 1


# Resumes.


def test_delivery_hands_over_to_a_newer_attempt_without_closing_the_run(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)

    def resume() -> None:
        run.die()
        run.trainer = FOREIGN
        run.begin(resume_step=1)
        run.points(2)

    assert Driver(run.folder, backend).run(resume) is DeliveryOutcome.HANDED_OVER
    assert (backend.steps(), backend.closed) == ([1, 2], [])
    assert Lease(run.folder / "sinks", "memory").try_acquire()


def test_a_newer_attempt_is_noticed_although_its_segment_was_empty_at_first(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    path = segment_path(run.folder, 1)

    def make_file() -> None:
        path.touch()

    def resume() -> None:
        path.unlink()
        run.begin(resume_step=1)
        assert segment_path(run.folder, 1).exists()

    assert Driver(run.folder, backend).run(make_file, resume) is DeliveryOutcome.HANDED_OVER


def test_the_end_of_an_earlier_attempt_does_not_close_the_run(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    run.close("preempted")
    run.begin(resume_step=1)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert backend.closed == []
    run.points(2)
    run.close("finished")
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.closed == ["finished"]
    assert backend.steps() == [1, 2]


def test_a_killed_attempt_closes_the_run_as_killed_although_an_earlier_one_ended_orderly(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)
    run.close("preempted")
    run.begin(resume_step=1)
    run.die()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.closed == ["killed"]


def test_the_sink_receives_the_resumed_record(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    run.die()
    run.begin(resume_step=2)
    run.points(3)
    run.close()
    sync(run, backend)
    kinds = [(type(record), record.step) for record in backend.held if isinstance(record, Scalars | Resumed)]
    assert kinds == [(Scalars, 1), (Scalars, 2), (Resumed, 2), (Scalars, 3)]


def test_a_later_sync_omits_superseded_records(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2, 3, 4)
    live = Backend(destination="live")
    sync(run, live)
    run.die()
    run.begin(resume_step=2)
    run.points(3, 4, 5)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3, 4, 5]
    assert sync(run, live) is DeliveryOutcome.COMPLETE
    assert live.steps() == [1, 2, 3, 4, 3, 4, 5]


def test_a_new_segment_of_the_same_attempt_does_not_end_delivery(run: HandMadeRun, backend: Backend) -> None:
    seqs = run.points(1, 2)

    def continue_in_a_new_segment() -> None:
        # As after a failed fdatasync: the same attempt continues in a new segment.
        run.journal = JournalWriter(run.folder, run_record(run.folder, 1))
        run.points(3)

    assert Driver(run.folder, backend).run(continue_in_a_new_segment, run.close) is DeliveryOutcome.COMPLETE
    assert backend.seqs() == [*seqs, 1_000_000_001]
    assert backend.closed == ["finished"]


# Odd journals, folders and leases.


def test_records_of_unknown_kinds_are_skipped(run: HandMadeRun, backend: Backend) -> None:

    class Picture(Record, frozen=True, kw_only=True, tag="picture"):
        """A kind of record that this version does not know."""

    run.points(1)
    run.journal.append(lambda seq: Picture(seq=seq, time=0))  # type: ignore[arg-type,return-value]
    run.points(3)
    run.close()
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 3]


def test_a_delivery_that_has_lost_its_lease_ends_without_closing_the_run(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)

    def lose() -> None:
        (run.folder / "sinks" / "memory.lease-2").write_text("{}")

    assert Driver(run.folder, backend).run(lose) is DeliveryOutcome.HANDED_OVER
    assert backend.closed == []
    assert read_progress(run.folder, "memory") is not None


def test_the_cursor_is_read_only_once_the_lease_is_held(run: HandMadeRun, backend: Backend) -> None:
    backend.reports_last_seq = False
    run.points(1, 2)
    late = Driver(run.folder, backend, follow=False)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert late.run() is DeliveryOutcome.CAUGHT_UP
    assert backend.steps() == [1, 2]


def test_a_deleted_run_folder_is_retried_for_linger(run: HandMadeRun, backend: Backend, tmp_path: Path) -> None:
    run.points(1)
    run.close("finished")
    run.begin(resume_step=1)
    driver = Driver(run.folder, backend, settings=Settings(linger=100))
    assert driver.run(lambda: run.folder.rename(tmp_path / "gone")) is DeliveryOutcome.GAVE_UP
    assert backend.steps() == [1]


def test_a_run_folder_that_cannot_be_read_for_a_while_is_retried(
    run: HandMadeRun, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.points(1)
    real = os.scandir
    driver = Driver(run.folder, backend)

    def stale(path: Any) -> NoReturn:
        raise OSError(116, "Stale file handle")

    def restore() -> None:
        monkeypatch.setattr("os.scandir", real)

    assert (
        driver.run(lambda: monkeypatch.setattr("os.scandir", stale), lambda: None, restore, run.close)
        is DeliveryOutcome.COMPLETE
    )
    assert backend.steps() == [1]


def test_records_that_a_client_may_have_lost_do_not_count_as_delivered(run: HandMadeRun, backend: Backend) -> None:
    backend.buffers, backend.reports_last_seq = True, False
    run.points(1, 2)
    run.close()
    backend.close_fails = SinkUnavailable("cannot finish")
    assert sync(run, backend, settings=Settings(linger=0.001)) is DeliveryOutcome.GAVE_UP
    (line,) = receipt(run.folder, Counts()).sinks
    assert (line.delivered, line.pending) == (0, 2)


def test_a_destination_that_cannot_be_opened_is_not_mistaken_for_the_previous_one(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1, 2)
    run.close()
    sync(run, backend)
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert not progress.reopening
    backend.down = SinkUnavailable("nobody there")
    assert sync(run, backend, settings=Settings(linger=0.001)) is DeliveryOutcome.GAVE_UP
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert (progress.state, progress.reopening, progress.destination) == ("retrying", True, "memory")
    (line,) = receipt(run.folder, Counts()).sinks
    assert (line.pending, line.is_behind) == (0, True)


def test_the_cursor_of_another_destination_is_ignored(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    run.close()
    sync(run, backend)
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    progress.cursors["memory"].accepted = 10**9
    progress.cursors["memory"].durable = 10**9
    write_progress(run.folder, "memory", progress)
    other = Backend(destination="other", reports_last_seq=False)
    assert sync(run, other) is DeliveryOutcome.COMPLETE
    assert other.steps() == [1, 2]


def test_a_liveness_probe_can_be_passed(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    run.trainer = DEAD

    class Gone(TrainerLivenessProbe):
        def is_alive(self) -> bool | None:
            return False

    assert Driver(run.folder, backend, liveness=Gone(run.folder)).run() is DeliveryOutcome.COMPLETE
    assert backend.closed == ["killed"]


def test_the_sink_receives_units_and_labels_with_the_run(tmp_path: Path, backend: Backend) -> None:
    import msgspec

    folder = tmp_path / "run"
    folder.mkdir()
    metrics = {"train/E": Metric(unit="kcal/mol", source_unit="eV/particle", label="energy error")}
    JournalWriter(folder, msgspec.structs.replace(run_record(folder), metrics=metrics)).close()
    beat(folder, DEAD)
    Driver(folder, backend, follow=False).run()
    assert backend.runs[0].metrics == metrics
