"""The sinks for tests behave as documented when telemetry delivers to them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.telemetry_fakes import FakeClock, HandMadeRun
from telemetry import Settings
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.plugins.registry import Sink, select
from telemetry.sink_api import Scalars, SinkRejected
from telemetry.testing import FlakySink, HungSink, RecordingSink, SlowSink, resumed, run_record, scalars
from telemetry.testing.points import STARTED


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> HandMadeRun:
    """A finished run of three points."""
    run = HandMadeRun(tmp_path / "run")
    run.points(1, 2, 3)
    run.close()
    return run


def delivery(run: HandMadeRun, sink: RecordingSink, clock: FakeClock) -> Delivery:
    made = Delivery(run.folder, Sink(sink.name, {}, None, sink), Settings(), wait=clock.sleep, clock=clock)
    made.lease.acquire()
    return made


def steps(sink: RecordingSink) -> list[int]:
    return [record.step for record in sink.records if isinstance(record, Scalars)]


def test_a_recording_sink_keeps_its_records(run: HandMadeRun, clock: FakeClock) -> None:
    sink = RecordingSink()
    assert delivery(run, sink, clock).run() is DeliveryOutcome.COMPLETE
    assert steps(sink) == [1, 2, 3]
    assert [opened.name for opened in sink.opened] == ["a run"]
    assert sink.closed == ["finished"]


def test_a_recording_sink_receives_each_record_once_per_run(run: HandMadeRun, clock: FakeClock, tmp_path: Path) -> None:
    sink = RecordingSink()
    delivery(run, sink, clock).run()
    delivery(run, sink, clock).run()
    assert steps(sink) == [1, 2, 3]
    other = HandMadeRun(tmp_path / "other")
    other.points(1, 2)
    other.close()
    delivery(other, sink, clock).run()
    assert steps(sink) == [1, 2, 3, 1, 2]


def test_a_flaky_sink_fails_at_the_chosen_calls_and_receives_everything_once(
    run: HandMadeRun, clock: FakeClock
) -> None:
    sink = FlakySink(fail=[1, 2])
    assert delivery(run, sink, clock).run() is DeliveryOutcome.COMPLETE
    assert steps(sink) == [1, 2, 3]
    assert (sink.calls, len(clock.sleeps)) == (3, 2)


def test_a_flaky_sink_can_fail_with_any_error(run: HandMadeRun, clock: FakeClock) -> None:
    sink = FlakySink(fail=range(1, 6), error=lambda: SinkRejected("not this one"), name="picky")
    assert delivery(run, sink, clock).run() is DeliveryOutcome.COMPLETE
    # All three together, then halves, down to single records.
    assert steps(sink) == []
    rejected = (run.folder / "sinks" / "picky.rejected.jsonl").read_text(encoding="utf-8")
    assert rejected.count('"kind":"scalars"') == 3


def test_a_slow_sink_uses_the_given_sleep(run: HandMadeRun, clock: FakeClock) -> None:
    sink = SlowSink(seconds=30.0, sleep=clock.sleep)
    assert delivery(run, sink, clock).run() is DeliveryOutcome.COMPLETE
    assert clock.sleeps == [30.0]
    assert steps(sink) == [1, 2, 3]


def test_a_hung_sink_returns_when_it_is_released(run: HandMadeRun, clock: FakeClock) -> None:
    sink = HungSink()
    delivering = threading.Thread(target=delivery(run, sink, clock).run)
    delivering.start()
    assert sink.hung.wait(20)
    assert (delivering.is_alive(), steps(sink)) == (True, [])
    sink.release()
    delivering.join(20)
    assert steps(sink) == [1, 2, 3]


def test_several_fakes_can_be_used_together_under_different_names() -> None:
    sinks = select([RecordingSink(), RecordingSink("another"), FlakySink(), SlowSink(), HungSink()], {})
    assert [sink.name for sink in sinks] == ["recording", "another", "flaky", "slow", "hung"]


def test_records_have_the_given_fields_and_reasonable_defaults() -> None:
    assert run_record("ice", every=200).metrics["train/E_rmse"].unit == "kcal/mol"
    assert (run_record().run_id, run_record("ice").name, run_record(attempt=2).attempt) == ("water", "ice", 2)
    point = scalars(4)
    assert (point.step, point.time, point.items()) == (40, STARTED + 4004, [("train/loss", 0.25)])
    assert scalars(5, 7, "val", **{"fid 1/E_rmse": 2.0}).names() == ["val/fid 1/E_rmse"]
    assert (resumed(9, step=3).step, resumed(9, step=3).attempt) == (3, 2)
