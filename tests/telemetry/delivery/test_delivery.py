"""Delivery to one sink: in order, once, whatever the sink, the trainer or the disk does meanwhile."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import DEAD, FOREIGN, METRICS, Backend, FakeClock, HandMadeRun, beat, run_record, sink_for
from telemetry import Metric, Settings
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.receipt import receipt
from telemetry.journal.reader import read_header
from telemetry.journal.segments import segment_path
from telemetry.journal.writer import JournalWriter
from telemetry.plugins.registry import Sink
from telemetry.records import Closed
from telemetry.run_folder.heartbeat import Counts, TrainerLivenessProbe
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.sink_progress import progress_path, read_progress, write_progress
from telemetry.sink_api import Resumed, Scalars, SinkRejected, SinkUnavailable

SETTINGS = Settings(poll=2.0, linger=600.0)


class StuckError(BaseException):
    """The delivery has waited more often than any test asks for."""


class Driver:
    """Drives a delivery on a fake clock: at the n-th wait, the n-th of ``then`` happens.

    ``waits`` holds how long the delivery meant to wait each time.
    """

    def __init__(self, folder: Path, sink: Sink | Backend, *, follow: bool = True, **more: Any) -> None:
        self.clock = FakeClock()
        self.waits: list[float] = []
        self.said: list[str] = []
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
            say=self.said.append,
            clock=self.clock,
            jitter=lambda: 1.0,
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
    """Deliver what there is, as ``telemetry sync`` does."""
    return Driver(run.folder, backend, follow=False, **more).run()


# In order, and once.


def test_everything_comes_in_order_and_once_and_the_end_is_told(run: HandMadeRun, backend: Backend) -> None:
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


def test_what_comes_in_between_two_looks_is_one_batch(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: run.points(2, 3), lambda: run.points(4, 5, 6), run.close) is DeliveryOutcome.COMPLETE
    assert backend.calls == [1, 2, 3]
    assert backend.steps() == [1, 2, 3, 4, 5, 6]
    assert driver.waits == [2.0, 2.0, 2.0]


def test_the_sink_gets_the_run_as_it_was_declared(run: HandMadeRun, backend: Backend) -> None:
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


def test_a_running_run_is_delivered_as_far_as_it_goes(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert backend.steps() == [1, 2]
    assert backend.closed == []
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_run_without_a_record_is_opened_and_closed(run: HandMadeRun, backend: Backend) -> None:
    run.close("failed")
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert (backend.held, backend.closed) == ([], ["failed"])


def test_the_lease_is_given_back_in_the_end(run: HandMadeRun, backend: Backend) -> None:
    run.close()
    sync(run, backend)
    assert Lease(run.folder / "sinks", "memory").try_acquire()


# Restarts.


def die(run: HandMadeRun, backend: Backend, at_call: int) -> None:
    """Let a delivery die in its n-th write, after the backend has taken the batch and before the cursor is saved."""

    class DiedError(BaseException):
        pass

    def take_and_die() -> None:
        raise DiedError

    driver = Driver(run.folder, backend)
    original = driver.delivery._write
    calls = itertools.count(1)

    def write(records: Any) -> int | None:
        durable = original(records)
        if next(calls) == at_call:
            driver.delivery._turn = take_and_die  # type: ignore[method-assign]
            raise DiedError
        return durable

    driver.delivery._write = write  # type: ignore[method-assign]
    driver.delivery._failed = lambda _: None  # type: ignore[method-assign]
    with pytest.raises(DiedError):
        driver.run()
    backend.crash()


def test_a_crash_before_the_cursor_was_saved_is_healed_by_what_the_sink_holds(
    run: HandMadeRun, backend: Backend
) -> None:
    seqs = run.points(*range(1, 2501))
    run.close()
    die(run, backend, at_call=2)
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.cursor.accepted == 1000
    assert len(backend.held) == 2000
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.seqs() == seqs


def test_a_sink_that_cannot_tell_goes_on_at_the_cursor(run: HandMadeRun, backend: Backend) -> None:
    backend.tells = False
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_sink_that_says_it_is_empty_gets_everything_from_the_start(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    backend.held.clear()
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_a_sink_that_holds_less_than_the_cursor_says_gets_the_rest_again(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2, 3, 4)
    sync(run, backend)
    del backend.held[2:]
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3, 4]


def test_what_was_accepted_and_not_durable_comes_again_after_a_crash(run: HandMadeRun, backend: Backend) -> None:
    backend.buffers = True
    backend.tells = False
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
    # What a run that was closed in an orderly way has taken is there.
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_what_a_crash_may_have_taken_back_counts_as_left(run: HandMadeRun, backend: Backend) -> None:
    backend.buffers = True
    backend.tells = False
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert [(sink.delivered, sink.left) for sink in receipt(run.folder, Counts()).sinks] == [(2, 0)]
    backend.crash()
    backend.faults = [SinkUnavailable("no network")]
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: setattr(driver, "stopped", True)) is DeliveryOutcome.GAVE_UP
    assert [(sink.delivered, sink.left) for sink in receipt(run.folder, Counts()).sinks] == [(0, 2)]


def test_two_destinations_have_a_cursor_each(run: HandMadeRun, backend: Backend) -> None:
    other = Backend(destination="elsewhere", tells=False)
    backend.tells = False
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
def test_a_progress_file_that_is_garbage_is_as_none(run: HandMadeRun, backend: Backend, content: bytes) -> None:
    run.points(1, 2)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    progress_path(run.folder, "memory").write_bytes(content)
    run.points(3)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2, 3]


def test_what_killed_processes_left_half_written_is_cleared_away(run: HandMadeRun, backend: Backend) -> None:
    left = [run.folder / "sinks" / f".memory.{name}.4711.0.tmp" for name in ("json", "lease-1")]
    for path in left:
        path.touch()
    run.points(1)
    run.close()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert not any(path.exists() for path in left)


def test_a_progress_file_that_cannot_be_written_is_said_and_holds_up_nothing(
    run: HandMadeRun, backend: Backend
) -> None:
    progress_path(run.folder, "memory").mkdir()
    run.points(1, 2)
    run.close()
    driver = Driver(run.folder, backend)
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2]
    assert len([line for line in driver.said if "progress cannot be written" in line]) == 1


def test_a_sink_that_claims_more_than_it_was_given_is_not_believed(run: HandMadeRun, backend: Backend) -> None:
    backend.tells = False
    run.points(1, 2)
    boasting = Driver(run.folder, backend, follow=False)
    write = boasting.delivery._write
    boasting.delivery._write = lambda records: (write(records) or 0) + 10**6  # type: ignore[method-assign]
    assert boasting.run() is DeliveryOutcome.CAUGHT_UP
    run.points(3)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert backend.steps() == [1, 2, 3]


# Failures of the sink.


def test_a_failing_sink_is_tried_again_with_growing_pauses_and_a_fresh_instance(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1, 2)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)

    def heal() -> None:
        backend.down = None

    assert driver.run(*[lambda: None] * 8, heal, run.close) is DeliveryOutcome.COMPLETE
    assert driver.waits[:9] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert len(backend.sinks) == 10
    assert backend.steps() == [1, 2]
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.retries == 9
    assert progress.last_error == "memory of fakes 1.0: SinkUnavailable: no network"


def test_a_failure_is_said_once_and_so_is_its_end(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)

    def heal() -> None:
        backend.down = None

    driver.run(*[lambda: None] * 3, heal, run.close)
    assert [line for line in driver.said if "cannot take records now" in line] == [
        "memory of fakes 1.0 cannot take records now (SinkUnavailable: no network); it will be tried again"
    ]
    assert [line for line in driver.said if "again" in line][1:] == ["memory takes records again"]


def test_the_pauses_are_shortened_at_random(run: HandMadeRun, backend: Backend) -> None:
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)
    jitter = iter([0.0, 0.5, 1.0])
    driver.delivery._jitter = lambda: next(jitter)

    def stop() -> None:
        driver.stopped = True

    driver.run(lambda: None, lambda: None, stop)
    assert driver.waits == [0.5, 1.5, 4.0]


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(0), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_sink_raises_is_a_failure_to_be_tried_again(
    run: HandMadeRun, backend: Backend, error: BaseException
) -> None:
    run.points(1, 2)
    run.close()
    backend.faults = [error]
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 2]


def test_what_was_taken_before_a_failure_does_not_come_again(run: HandMadeRun, backend: Backend) -> None:
    run.points(*range(1, 2501))
    run.close()
    backend.faults = [None, SinkUnavailable("a hiccup"), None]
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == list(range(1, 2501))


def test_pauses_grow_although_a_sink_takes_the_same_first_batch_again_and_again(
    run: HandMadeRun, backend: Backend
) -> None:
    backend.tells = False
    backend.buffers = True
    run.points(*range(1, 1501))
    backend.faults = [None, RuntimeError("poison")] * 5
    driver = Driver(run.folder, backend)

    def stop() -> None:
        driver.stopped = True

    driver.run(*[lambda: None] * 4, stop)
    assert driver.waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_sink_that_cannot_close_is_tried_again_with_growing_pauses_and_given_up_in_the_end(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)
    run.close()
    backend.close_fails = RuntimeError("no")
    driver = Driver(run.folder, backend, settings=Settings(linger=100))
    assert driver.run() is DeliveryOutcome.GAVE_UP
    assert driver.waits[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert backend.steps() == [1]
    assert len([line for line in driver.said if "cannot take records now" in line]) == 1


def test_a_hiccup_long_after_another_begins_with_the_first_pause(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.faults = [SinkUnavailable("a hiccup")] * 3 + [None, SinkUnavailable("another")]
    driver = Driver(run.folder, backend)
    nothing = [lambda: None] * 3
    driver.run(*nothing, lambda: run.points(2), lambda: None, run.close)
    assert driver.waits == [1.0, 2.0, 4.0, 2.0, 1.0, 2.0]
    assert backend.steps() == [1, 2]


def test_a_sink_that_is_well_again_is_said_so_also_without_a_record(run: HandMadeRun, backend: Backend) -> None:
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend)

    def heal() -> None:
        backend.down = None

    def fail_once() -> None:
        backend.faults = [SinkUnavailable("another")]
        run.points(1)

    assert driver.run(lambda: None, heal, fail_once, lambda: None, run.close) is DeliveryOutcome.COMPLETE
    assert driver.waits == [1.0, 2.0, 2.0, 1.0, 2.0]
    assert [line for line in driver.said if "takes records again" in line] == ["memory takes records again"] * 2


def test_a_backend_that_is_down_while_the_trainer_lives_is_never_given_up(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend, settings=Settings(linger=10))

    def heal() -> None:
        backend.down = None

    assert driver.run(*[lambda: None] * 150, heal, run.close) is DeliveryOutcome.COMPLETE
    assert sum(driver.waits) > 150 * 50


def test_a_dead_backend_is_given_up_when_the_trainer_has_been_gone_for_so_long(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend, settings=Settings(linger=300))
    assert driver.run(*[lambda: None] * 20, run.die) is DeliveryOutcome.GAVE_UP
    alone = sum(driver.waits[21:])
    assert 240 <= alone <= 360
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.state == "retrying"


def test_a_sync_gives_a_dead_backend_up_after_linger(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.down = SinkUnavailable("no network")
    driver = Driver(run.folder, backend, follow=False, settings=Settings(linger=30))
    assert driver.run() is DeliveryOutcome.GAVE_UP
    assert 30 <= sum(driver.waits) <= 63


def test_delivery_ends_when_it_is_told_to(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    driver = Driver(run.folder, backend)

    def stop() -> None:
        driver.stopped = True

    assert driver.run(stop) is DeliveryOutcome.GAVE_UP
    assert backend.closed == []


# Records that a sink will not take.


def test_of_a_batch_exactly_the_bad_records_are_set_aside(run: HandMadeRun, backend: Backend) -> None:
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
    assert "is not to my taste" in progress.last_error
    assert driver.waits == [], "a bad record is no reason to wait"
    assert len(backend.calls) < 200
    (line,) = receipt(run.folder, Counts()).sinks
    assert (line.delivered, line.left) == (1494, 0)


def test_a_record_that_was_set_aside_is_not_counted_again_by_a_later_sync(run: HandMadeRun, backend: Backend) -> None:
    seqs = run.points(1, 2, 3)
    backend.bad = frozenset(seqs[1:])
    for _ in range(3):
        assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert progress.cursor.rejected == 2
    assert len((run.folder / "sinks" / "memory.rejected.jsonl").read_text().splitlines()) == 2
    assert backend.steps() == [1]


def test_a_sink_that_is_told_off_at_the_first_record_still_gets_the_others(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.faults = [SinkRejected("never")]
    driver = Driver(run.folder, backend)
    assert driver.run(lambda: run.points(2), run.close) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [2]


def test_a_sink_that_refuses_the_run_ends_its_delivery_with_the_message(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    backend.refuses = SinkRejected("this project is archived")
    driver = Driver(run.folder, backend)
    assert driver.run() is DeliveryOutcome.REFUSED
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    assert (progress.state, progress.last_error) == (
        "refused",
        "memory of fakes 1.0: SinkRejected: this project is archived",
    )
    assert any("this project is archived" in line and "telemetry sync" in line for line in driver.said)
    assert Lease(run.folder / "sinks", "memory").try_acquire()


def test_a_refusal_is_not_for_ever(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    run.close()
    backend.refuses = SinkRejected("this project is archived")
    assert sync(run, backend) is DeliveryOutcome.REFUSED
    backend.refuses = None
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1]


# The trainer's end.


def test_when_the_trainer_is_killed_all_it_wrote_comes_and_the_run_is_killed(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)

    def write_and_die() -> None:
        run.points(*range(2, 2002))
        run.die()

    assert Driver(run.folder, backend).run(write_and_die) is DeliveryOutcome.COMPLETE
    assert backend.steps() == list(range(1, 2002))
    assert backend.closed == ["killed"]


def test_a_run_that_was_closed_ends_when_and_why_its_journal_says(run: HandMadeRun, backend: Backend) -> None:
    run.journal.append(lambda seq: Closed(seq=seq, time=1234, status="failed", reason="out of luck"))
    run.journal.commit()
    sync(run, backend)
    assert (backend.closed, backend.ends) == (["failed"], [(1234, "out of luck")])


def test_a_killed_run_ends_with_its_last_record_also_for_one_who_has_nothing_to_deliver(
    run: HandMadeRun, backend: Backend
) -> None:
    # The time of a record of these runs is its iteration.
    run.points(7, 500)
    run.die()
    sync(run, backend)
    sync(run, backend)
    assert backend.steps() == [7, 500]
    assert backend.closed == ["killed", "killed"]
    assert backend.ends == [(500, "the trainer ended without a word")] * 2


def test_a_killed_run_without_a_record_ends_when_it_began(run: HandMadeRun, backend: Backend) -> None:
    run.die()
    sync(run, backend)
    assert backend.ends == [(read_header(run.folder).time, "the trainer ended without a word")]


def test_what_a_trainer_writes_between_the_last_look_and_its_end_is_delivered(
    run: HandMadeRun, backend: Backend
) -> None:
    run.points(1)

    class Watch(TrainerLivenessProbe):
        looks = 0

        def is_alive(self) -> bool | None:
            self.looks += 1
            if self.looks == 3:
                # The journal has just been read, and the trainer was alive.
                run.points(2)
                run.die()
            return super().is_alive()

    assert Driver(run.folder, backend, watch=Watch(run.folder)).run() is DeliveryOutcome.COMPLETE
    assert (backend.steps(), backend.closed) == ([1, 2], ["killed"])


def test_a_torn_last_line_of_a_killed_trainer_is_no_hindrance(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    with segment_path(run.folder, 0).open("ab") as file:
        file.write(b'{"kind":"scalars","seq":3')
    run.die()
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert (backend.steps(), backend.closed) == ([1, 2], ["killed"])


def test_a_trainer_that_closes_its_run_and_goes_on_living_is_not_killed(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    assert Driver(run.folder, backend).run(lambda: run.close("preempted")) is DeliveryOutcome.COMPLETE
    assert backend.closed == ["preempted"]


def test_a_trainer_elsewhere_is_watched_for_a_minute_before_its_run_is_killed(tmp_path: Path, backend: Backend) -> None:
    run = HandMadeRun(tmp_path / "run", FOREIGN)
    run.points(1)
    driver = Driver(run.folder, backend, follow=False)
    assert driver.run() is DeliveryOutcome.COMPLETE
    assert backend.closed == ["killed"]
    assert 60 <= sum(driver.waits) <= 62


def test_a_trainer_elsewhere_that_beats_is_left_running(tmp_path: Path, backend: Backend) -> None:
    run = HandMadeRun(tmp_path / "run", FOREIGN)
    run.points(1)
    driver = Driver(run.folder, backend, follow=False)
    assert driver.run(*[lambda: None] * 9, lambda: beat(run.folder, FOREIGN, beat=2)) is DeliveryOutcome.CAUGHT_UP
    assert backend.closed == []
    assert len(driver.waits) == 10


def test_who_watches_a_trainer_elsewhere_can_be_stopped(tmp_path: Path, backend: Backend) -> None:
    run = HandMadeRun(tmp_path / "run", FOREIGN)
    run.points(1)
    driver = Driver(run.folder, backend, follow=False)

    def stop() -> None:
        driver.stopped = True

    assert driver.run(stop) is DeliveryOutcome.GAVE_UP
    assert len(driver.waits) == 1


# Resumes.


def test_delivery_hands_over_to_a_newer_attempt_without_closing(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)

    def resume() -> None:
        run.die()
        run.trainer = FOREIGN
        run.begin(resume_step=1)
        run.points(2)

    assert Driver(run.folder, backend).run(resume) is DeliveryOutcome.HANDED_OVER
    assert (backend.steps(), backend.closed) == ([1, 2], [])
    assert Lease(run.folder / "sinks", "memory").try_acquire()


def test_a_newer_attempt_is_seen_although_its_segment_had_no_head_at_first(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    path = segment_path(run.folder, 1)

    def make_file() -> None:
        path.touch()

    def resume() -> None:
        path.unlink()
        run.begin(resume_step=1)
        assert segment_path(run.folder, 1).exists()

    assert Driver(run.folder, backend).run(make_file, resume) is DeliveryOutcome.HANDED_OVER


def test_the_end_of_an_earlier_attempt_is_no_end(run: HandMadeRun, backend: Backend) -> None:
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


def test_an_attempt_that_was_killed_after_one_that_ended_well_is_killed(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    run.close("preempted")
    run.begin(resume_step=1)
    run.die()
    assert sync(run, backend) is DeliveryOutcome.COMPLETE
    assert backend.closed == ["killed"]


def test_the_sink_is_told_of_a_resume(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    run.die()
    run.begin(resume_step=2)
    run.points(3)
    run.close()
    sync(run, backend)
    kinds = [(type(record), record.step) for record in backend.held if isinstance(record, Scalars | Resumed)]
    assert kinds == [(Scalars, 1), (Scalars, 2), (Resumed, 2), (Scalars, 3)]


def test_a_later_sync_leaves_out_what_was_superseded(run: HandMadeRun, backend: Backend) -> None:
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


def test_a_segment_that_continues_the_same_attempt_is_no_newer_attempt(run: HandMadeRun, backend: Backend) -> None:
    seqs = run.points(1, 2)

    def go_on_elsewhere() -> None:
        # As after a failed fdatasync: the same attempt, the records since the last good one again.
        run.journal = JournalWriter(run.folder, run_record(run.folder, 1))
        run.points(3)

    assert Driver(run.folder, backend).run(go_on_elsewhere, run.close) is DeliveryOutcome.COMPLETE
    assert backend.seqs() == [*seqs, 1_000_000_001]
    assert backend.closed == ["finished"]


# Odd journals, folders and leases.


def test_records_of_an_unknown_kind_are_passed_over(run: HandMadeRun, backend: Backend) -> None:
    from zlib import crc32

    run.points(1)
    body = b'{"kind":"picture","seq":2,"time":0,"data":[1,2]'
    with segment_path(run.folder, 0).open("ab") as file:
        file.write(body + b',"crc":"%08x"}\n' % crc32(body))
    run.journal._next = 3
    run.points(3)
    run.close()
    assert Driver(run.folder, backend).run() is DeliveryOutcome.COMPLETE
    assert backend.steps() == [1, 3]


def test_a_holder_that_has_lost_its_lease_ends_without_closing(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)

    def lose() -> None:
        (run.folder / "sinks" / "memory.lease-2").write_text("{}")

    assert Driver(run.folder, backend).run(lose) is DeliveryOutcome.HANDED_OVER
    assert backend.closed == []
    assert read_progress(run.folder, "memory") is not None


def test_the_cursor_is_read_when_the_lease_is_held_and_not_before(run: HandMadeRun, backend: Backend) -> None:
    backend.tells = False
    run.points(1, 2)
    late = Driver(run.folder, backend, follow=False)
    assert sync(run, backend) is DeliveryOutcome.CAUGHT_UP
    assert late.run() is DeliveryOutcome.CAUGHT_UP
    assert backend.steps() == [1, 2]


def test_a_folder_that_is_deleted_is_a_failure_like_any_other(
    run: HandMadeRun, backend: Backend, tmp_path: Path
) -> None:
    run.points(1)
    run.close("finished")
    run.begin(resume_step=1)
    driver = Driver(run.folder, backend, settings=Settings(linger=100))
    assert driver.run(lambda: run.folder.rename(tmp_path / "gone")) is DeliveryOutcome.GAVE_UP
    assert backend.steps() == [1]


def test_a_folder_that_cannot_be_read_for_a_moment_is_tried_again(
    run: HandMadeRun, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.points(1)
    real = os.listdir
    driver = Driver(run.folder, backend)

    def stale(path: Any) -> list[str]:
        raise OSError(116, "Stale file handle")

    def heal() -> None:
        monkeypatch.setattr("os.listdir", real)

    assert (
        driver.run(lambda: monkeypatch.setattr("os.listdir", stale), lambda: None, heal, run.close)
        is DeliveryOutcome.COMPLETE
    )
    assert backend.steps() == [1]


def test_what_a_client_took_and_may_have_lost_is_not_told_as_delivered(run: HandMadeRun, backend: Backend) -> None:
    backend.buffers, backend.tells = True, False
    run.points(1, 2)
    run.close()
    backend.close_fails = SinkUnavailable("cannot finish")
    assert sync(run, backend, settings=Settings(linger=0.001)) is DeliveryOutcome.GAVE_UP
    (line,) = receipt(run.folder, Counts()).sinks
    assert (line.delivered, line.left) == (0, 2)


def test_a_place_that_cannot_be_opened_is_not_taken_for_the_one_before(run: HandMadeRun, backend: Backend) -> None:
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
    assert (line.left, line.is_behind) == (0, True)


def test_nothing_but_the_destinations_own_cursor_counts(run: HandMadeRun, backend: Backend) -> None:
    run.points(1, 2)
    run.close()
    sync(run, backend)
    progress = read_progress(run.folder, "memory")
    assert progress is not None
    progress.cursors["memory"].accepted = 10**9
    progress.cursors["memory"].durable = 10**9
    write_progress(run.folder, "memory", progress)
    other = Backend(destination="other", tells=False)
    assert sync(run, other) is DeliveryOutcome.COMPLETE
    assert other.steps() == [1, 2]


def test_a_watch_may_be_handed_in(run: HandMadeRun, backend: Backend) -> None:
    run.points(1)
    run.trainer = DEAD

    class Gone(TrainerLivenessProbe):
        def is_alive(self) -> bool | None:
            return False

    assert Driver(run.folder, backend, watch=Gone(run.folder)).run() is DeliveryOutcome.COMPLETE
    assert backend.closed == ["killed"]


def test_units_and_labels_come_to_the_sink_with_the_run(tmp_path: Path, backend: Backend) -> None:
    import msgspec

    folder = tmp_path / "run"
    folder.mkdir()
    metrics = {"train/E": Metric(unit="kcal/mol", source_unit="eV/particle", label="energy error")}
    JournalWriter(folder, msgspec.structs.replace(run_record(folder), metrics=metrics)).close()
    beat(folder, DEAD)
    Driver(folder, backend, follow=False).run()
    assert backend.runs[0].metrics == metrics
