"""The bus: which points it records, what it loses, and that training never waits for it."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import telemetry
from support.telemetry_fakes import (
    METRICS,
    Backend,
    FaultyDisk,
    MemorySink,
    eventually,
    journal_lines,
    journal_steps,
    remove,
)
from telemetry import Metric, MetricBus, NullBus, Receipt, SettingError, Settings, TelemetryError, UnitError, open_run
from telemetry.alerts.detector import Divergence
from telemetry.alerts.settings import AlertSettings
from telemetry.metrics import UNDECLARED
from telemetry.recording.limits import RecordingLimits
from telemetry.recording.open_run import start_run
from telemetry.recording.run_plan import plan_run
from telemetry.sink_api import SinkUnavailable
from telemetry.testing import RecordingSink

Opener = Callable[..., MetricBus]


@pytest.fixture
def open_bus(tmp_path: Path) -> Iterator[Opener]:
    """Return a function that opens a run in ``tmp_path / "run"``, by default without sinks; close it at the end."""
    buses: list[MetricBus] = []

    def open_it(every: int = 1, *, limits: dict[str, Any] | None = None, **more: Any) -> MetricBus:
        options = {"metrics": METRICS, "sinks": [], "settings": Settings(every=every)} | more
        chosen = {"disk_backoff_initial": 0.05} | (limits or {})
        buses.append(start_run(plan_run(tmp_path / "run", **options), RecordingLimits(**chosen)))
        return buses[-1]

    yield open_it
    for bus in buses:
        bus.close(timeout=0)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, open_bus: Opener) -> Iterator[FaultyDisk]:
    """Let the journal write to a disk that fails on request; it works again before the bus is closed."""
    disk = FaultyDisk()
    monkeypatch.setattr("telemetry.journal.writer.os", disk)
    yield disk
    disk.write_error = disk.sync_error = None
    if disk.hangs is not None:
        disk.hangs.set()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def journal_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "telemetry-journal"]


def counts(bus: MetricBus) -> tuple[int, int, int]:
    """Return how many records were offered, are durable, and were lost."""
    now = bus.counts()
    return now.offered, now.journaled, now.lost


# Cadence.


def test_a_reason_that_is_not_valid_unicode_still_closes_the_run(tmp_path: Path) -> None:
    bus = open_run(tmp_path / "run", metrics={"train/loss": Metric()}, sinks=[])
    receipt = bus.close("failed", reason="no file 'a\udcff.h5'")
    assert receipt is not None
    assert receipt.status == "failed"


def test_a_periodic_stream_has_points_at_multiples_of_every_and_nowhere_else(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=200)
    for step in range(1, 1001):
        bus.publish("train", step, {"loss": 1.0})
    assert bus.flush()
    assert journal_steps(run) == [200, 400, 600, 800, 1000]
    assert counts(bus) == (5, 5, 0)


def test_event_driven_streams_are_always_recorded(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=200)
    for step in (3, 4, 5):
        bus.publish("val", step, {"loss": 1.0})
    assert bus.flush()
    assert journal_steps(run, "val") == [3, 4, 5]


def test_the_final_point_is_recorded_whatever_the_cadence(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=200)
    for step in range(1, 251):
        bus.publish("train", step, {"loss": 1.0}, final=step == 250)
    assert bus.flush()
    assert journal_steps(run) == [200, 250]


def test_the_final_point_is_not_recorded_twice_if_it_is_due(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=200)
    bus.publish("train", 200, {"loss": 1.0})
    bus.publish("train", 200, {"loss": 1.0}, final=True)
    bus.publish("train", 201, {"loss": 1.0}, final=True)
    bus.publish("train", 201, {"loss": 1.0}, final=True)
    assert bus.flush()
    assert journal_steps(run) == [200, 201]


def test_each_stream_has_its_own_final_point(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=200)
    bus.publish("train", 200, {"loss": 1.0})
    values = {"train": {"loss": 1.0}, "train_window": {"loss": 2.0}}
    bus.publish_group(("train", "train_window"), 200, values, final=True)
    assert bus.flush()
    assert journal_steps(run) == [200]
    assert journal_steps(run, "train_window") == [200]


def test_all_ranks_agree_on_what_is_due(open_bus: Opener) -> None:
    bus, null = open_bus(every=7), NullBus(every=7)
    for stream in ("train", "train_window", "train_epoch", "val"):
        assert [bus.due(stream, s) for s in range(100)] == [null.due(stream, s) for s in range(100)]


def test_the_bus_of_other_ranks_has_all_members_and_does_nothing(tmp_path: Path) -> None:
    missing = [m for m in dir(MetricBus) if not m.startswith("_") and not hasattr(NullBus(), m)]
    assert missing == []
    with NullBus(every=1) as null:
        null.publish("train", 1, {"loss": 1.0})
        null.publish_group(("train",), 1, {"train": {"loss": 1.0}}, final=True)
        assert null.flush()
        assert null.drain(0)
        assert null.close() is None


# Values.


def test_values_are_in_display_units_in_the_journal(open_bus: Opener, run: Path) -> None:
    metrics = {
        "train/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle"),
        "train/loss": Metric(),
    }
    bus = open_bus(metrics=metrics)
    bus.publish("train", 1, {"E_rmse": 1.0, "loss": 1.0})
    assert bus.flush()
    values = journal_lines(run)[1]["values"]
    assert values["E_rmse"] == pytest.approx(23.060547830619026, rel=1e-12)
    assert values["loss"] == 1.0


def test_a_callable_is_called_in_the_journal_thread(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    threads: list[str] = []

    def values() -> dict[str, float]:
        threads.append(threading.current_thread().name)
        return {"loss": 2.5}

    bus.publish("train", 1, values)
    assert bus.flush()
    assert threads == ["telemetry-journal"]
    assert journal_lines(run)[1]["values"] == {"loss": 2.5}


def test_the_callable_of_a_point_that_is_not_due_is_never_called(open_bus: Opener) -> None:
    bus = open_bus(every=10)
    bus.publish("train", 9, lambda: pytest.fail("it was called"))
    assert bus.flush()
    assert counts(bus) == (0, 0, 0)


def test_a_mapping_may_be_reused_as_soon_as_publish_returns(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    release = threading.Event()
    bus.publish("val", 1, lambda: {"loss": float(release.wait(10))})
    values = {"loss": 2.0}
    group = {"train": values}
    bus.publish("train", 2, values)
    bus.publish_group(("train",), 3, group)
    values["loss"] = -1.0
    group.clear()
    release.set()
    assert bus.flush()
    assert [line["values"]["loss"] for line in journal_lines(run)[1:]] == [1.0, 2.0, 2.0]


def test_the_streams_of_a_group_are_written_in_one_call(disk: FaultyDisk, open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    before = len(disk.writes)
    streams = ("train", "train_window")
    bus.publish_group(streams, 1, lambda: {"train": {"loss": 1.0}, "train_window": {"loss": 2.0}})
    assert bus.flush()
    (written,) = disk.writes[before:]
    assert written.count(b"\n") == 2
    assert [(line["stream"], line["values"]) for line in journal_lines(run)[1:]] == [
        ("train", {"loss": 1.0}),
        ("train_window", {"loss": 2.0}),
    ]


def test_only_the_due_streams_of_a_group_are_recorded(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=10)
    bus.publish_group(("train", "val"), 5, {"train": {"loss": 1.0}, "val": {"loss": 2.0}})
    assert bus.flush()
    assert [line["stream"] for line in journal_lines(run)[1:]] == ["val"]
    assert counts(bus) == (1, 1, 0)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda: 1 / 0, id="raises"),
        pytest.param(lambda: sys.exit(3), id="exits"),
        pytest.param(lambda: None, id="gives nothing"),
        pytest.param(lambda: {"loss": "high"}, id="no number"),
        pytest.param(None, id="none at all"),
        pytest.param({"loss": object()}, id="object"),
    ],
)
def test_invalid_values_are_one_lost_record_and_the_next_is_written(
    open_bus: Opener, run: Path, values: object, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    bus.publish("train", 1, values)  # type: ignore[arg-type]
    bus.publish("train", 2, {"loss": 1.0})
    assert bus.flush()
    assert journal_steps(run) == [2]
    assert counts(bus) == (2, 1, 1)
    assert re.search(r"dropping (\w+ of )?train at iteration 1: ", caplog.text)


def test_of_a_group_only_a_missing_stream_is_lost(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.publish_group(("train", "val"), 1, lambda: {"val": {"loss": 1.0}})
    assert bus.flush()
    assert [line["stream"] for line in journal_lines(run)[1:]] == ["val"]
    assert counts(bus) == (2, 1, 1)


def test_a_group_whose_callable_raises_loses_all_its_streams(open_bus: Opener) -> None:
    bus = open_bus()
    bus.publish_group(("train", "val"), 1, lambda: {}[1])
    assert bus.flush()
    assert counts(bus) == (2, 0, 2)


def test_a_negative_step_is_a_lost_record(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.publish("train", -1, {"loss": 1.0})
    assert bus.flush()
    assert journal_steps(run) == []
    assert counts(bus) == (1, 0, 1)


def test_a_step_may_be_a_numpy_integer(open_bus: Opener, run: Path) -> None:
    numpy = pytest.importorskip("numpy")
    bus = open_bus(every=2)
    bus.publish("train", numpy.int64(4), {"loss": numpy.float32(0.5)})
    assert bus.flush()
    assert journal_steps(run) == [4]
    assert journal_lines(run)[1]["values"] == {"loss": 0.5}


@pytest.mark.parametrize("step", [1.5, "7", None, math.nan, True, -1, 1 << 62, [4]], ids=repr)
def test_an_invalid_step_is_a_lost_record_with_one_warning_that_names_it(
    open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture, step: Any
) -> None:
    bus = open_bus()
    bus.publish("train", step, {"loss": 1.0})
    bus.publish_group(("train", "val"), step, {"train": {"loss": 1.0}, "val": {"loss": 1.0}})
    bus.publish("train", 2, {"loss": 1.0})
    assert bus.flush()
    assert journal_steps(run) == [2]
    assert counts(bus) == (4, 1, 3)
    assert bus.counts().dropped == {"invalid step": 3}
    assert len([r for r in caplog.records if f"dropping train: step {step}" in r.message.replace("'", "")]) == 1


@pytest.mark.parametrize("step", [np.float64(4), np.float32(4), np.array(4), 4.0], ids=repr)
def test_a_step_may_be_a_number_without_a_fraction(open_bus: Opener, run: Path, step: Any) -> None:
    bus = open_bus(every=2)
    bus.publish("train", step, {"loss": 1.0})
    assert bus.flush()
    assert journal_lines(run)[1]["step"] == 4


def test_values_that_cannot_be_recorded_do_not_affect_the_others_and_are_counted_by_reason(
    open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    for step in (1, 2):
        bus.publish("train", step, {"loss": 1.0, "surprise": 2.0, "lr": "high", "n" * 300: 3.0})
    receipt = bus.close()
    points = [line["values"] for line in journal_lines(run) if line["kind"] == "scalars"]
    assert points == [{"loss": 1.0, "surprise": 2.0}] * 2
    assert counts(bus) == (3, 3, 0)
    assert bus.counts().dropped == {"not a number": 2, "invalid name": 2}
    assert "\n  left out: 2 x not a number, 2 x invalid name" in str(receipt)
    assert str(telemetry.read_receipt(str(run))) == str(receipt)
    messages = [r.message.partition(":")[0] for r in caplog.records if "dropping" in r.message]
    names = ["lr", "n" * 50]
    assert messages == [f"dropping {name} of train at iteration 1" for name in names]


def test_a_second_final_point_at_the_same_step_is_counted_as_already_recorded(open_bus: Opener) -> None:
    bus = open_bus()
    bus.publish("train", 7, {"loss": 1.0}, final=True)
    bus.publish("train", 7, {"loss": 2.0}, final=True)
    assert bus.flush()
    assert counts(bus) == (1, 1, 0)
    assert bus.counts().dropped == {"already recorded": 1}


def test_a_loop_whose_points_are_never_due_is_told_at_the_end_which_steps_are(
    open_bus: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(every=200)
    for step in range(50, 1801, 50):
        bus.publish("val", step, {"loss": 1.0})
        bus.publish("train", step - 1, {"loss": 1.0})
        if step % 200:
            bus.publish("train_window", step, {"loss": 1.0})
    bus.close()
    bus.close()
    assert [r.message for r in caplog.records if "were due" in r.message] == [
        f"0 of {count} points of {stream} were due: they were published at iterations {iterations}, but {stream} is "
        f"recorded at multiples of 200; set telemetry.every (Settings(every=…)) to {every}"
        for stream, count, iterations, every in (("train", 36, "49 to 1799", 1), ("train_window", 27, "50 to 1750", 50))
    ]


def test_non_finite_values_are_strings_in_the_journal(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.publish("train", 1, {"loss": float("nan"), "lr": float("-inf")})
    assert bus.flush()
    assert journal_lines(run)[1]["values"] == {"loss": "NaN", "lr": "-Infinity"}


# Durability.


def test_records_are_durable_when_flush_returns(disk: FaultyDisk, open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    for step in range(1, 101):
        syncs = disk.syncs
        bus.publish("train", step, lambda: {"loss": 1.0})
        assert bus.flush()
        assert journal_steps(run)[-1:] == [step]
        assert disk.syncs > syncs


def test_flush_does_not_mistake_later_losses_for_earlier_records(disk: FaultyDisk, open_bus: Opener) -> None:
    bus = open_bus(limits={"queue_capacity": 10})
    disk.hangs = threading.Event()
    for step in range(1, 11):
        bus.publish("train", step, {"loss": 1.0})
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(bus.flush(0.5)))
    waiting.start()
    for step in range(11, 31):
        bus.publish("train", step, {"loss": 1.0})
    waiting.join()
    assert answers == [False]


def test_flush_does_not_mistake_a_record_that_raises_for_an_earlier_one(disk: FaultyDisk, open_bus: Opener) -> None:
    bus = open_bus()
    release, taken = threading.Event(), threading.Event()
    bus.publish("train", 1, lambda: {"loss": float(taken.set() or release.wait(10))})
    assert taken.wait(10)
    disk.write_error = OSError(ENOSPC, "No space left on device")
    bus.publish("train", 2, {"loss": 1.0})
    bus.publish("train", 3, lambda: 1 / 0)
    release.set()
    eventually(lambda: bus.counts().lost == 1)
    assert not bus.flush(0.2)
    disk.write_error = None
    assert bus.flush()
    assert counts(bus) == (3, 2, 1)


def test_closing_retries_the_disk_at_once(
    disk: FaultyDisk, open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(limits={"disk_backoff_initial": 3600.0, "disk_backoff_max": 3600.0})
    disk.write_error = OSError(ENOSPC, "No space left on device")
    bus.publish("train", 1, {"loss": 1.0})
    eventually(lambda: "cannot write the journal" in caplog.text)
    disk.write_error = None
    receipt = bus.close()
    assert receipt is not None
    assert receipt.status == "finished"
    assert journal_steps(run) == [1]


def test_a_folder_that_is_unreadable_at_the_end_does_not_fail_the_training(open_bus: Opener, run: Path) -> None:
    bus = open_bus(limits={"close_timeout": 0.3})
    (thread,) = journal_threads()
    bus.publish("train", 1, {"loss": 1.0})
    assert bus.flush()
    moved = run.rename(run.with_name("moved"))
    run.symlink_to(run.name)  # a link to itself
    receipt = bus.close()
    assert receipt is not None
    assert receipt.counts.journaled == 1
    # The thread left behind ends as soon as it can write.
    run.unlink()
    moved.rename(run)
    thread.join(20)
    assert not thread.is_alive()


def test_drain_waits_for_all_sinks(open_bus: Opener) -> None:
    up, down = Backend(), Backend(down=SinkUnavailable("no route"))
    sinks = [MemorySink(down), MemorySink(up)]
    for name, sink in zip(("down", "up"), sinks, strict=True):
        sink.name = name
    bus = open_bus(sinks=sinks, settings=Settings(every=1, poll=0.02))
    bus.publish("train", 1, {"loss": 1.0})
    eventually(lambda: up.steps() == [1])
    assert not bus.drain(0.2)
    down.down = None
    assert bus.drain(20)
    assert down.steps() == [1]


def test_the_wait_for_delivery_threads_can_be_limited_while_it_lasts(open_bus: Opener) -> None:
    down = Backend(down=SinkUnavailable("no route"))
    bus = open_bus(sinks=[MemorySink(down)], settings=Settings(every=1, poll=0.02, drain_timeout=60.0))
    bus.publish("train", 1, {"loss": 1.0})
    threading.Timer(0.3, bus.limit_drain, [0.1]).start()
    began = time.monotonic()
    receipt = bus.close()
    assert time.monotonic() - began < 30
    assert receipt is not None
    assert receipt.sinks[0].pending == 1


def test_flush_returns_false_after_its_timeout(disk: FaultyDisk, open_bus: Opener) -> None:
    bus = open_bus()
    disk.hangs = threading.Event()
    bus.publish("train", 1, {"loss": 1.0})
    began = time.monotonic()
    assert not bus.flush(0.2)
    assert 0.2 <= time.monotonic() - began < 5


def test_each_record_of_concurrent_threads_is_written_once(open_bus: Opener, run: Path) -> None:
    bus = open_bus()

    def publish(first: int) -> None:
        for step in range(first, 1000, 5):
            bus.publish("train", step, lambda: {"loss": 1.0})

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bus.flush()
    assert sorted(journal_steps(run)) == list(range(1000))
    seqs = [line["seq"] for line in journal_lines(run)]
    assert seqs == list(range(1001))


# Failures.


def test_a_full_queue_drops_further_records_and_counts_them_exactly(
    disk: FaultyDisk, open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    disk.hangs = threading.Event()
    bus.publish("train", 0, {"loss": 1.0})
    assert disk.hung.wait(10)
    for step in range(1, 10_051):
        bus.publish("train", step, {"loss": 1.0})
    assert counts(bus) == (10_051, 0, 51)
    disk.hangs.set()
    assert bus.flush(20)
    assert counts(bus) == (10_051, 10_000, 51)
    assert journal_steps(run) == list(range(10_000))
    assert len([r for r in caplog.records if "are waiting for the disk" in r.message]) == 1


def test_a_final_point_dropped_by_a_full_queue_may_be_offered_again(
    disk: FaultyDisk, open_bus: Opener, run: Path
) -> None:
    bus = open_bus(limits={"queue_capacity": 1})
    disk.hangs = threading.Event()
    bus.publish("val", 1, {"loss": 1.0})
    bus.publish("train", 2, {"loss": 1.0})
    disk.hangs.set()
    assert bus.flush()
    bus.publish("train", 2, {"loss": 1.0}, final=True)
    assert bus.flush()
    assert journal_steps(run) == [2]


@pytest.mark.parametrize("fault", ["write_error", "sync_error"])
def test_training_continues_while_the_disk_fails_and_all_records_are_written_later(
    disk: FaultyDisk, open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    bus = open_bus()
    bus.publish("train", 1, {"loss": 1.0})
    assert bus.flush()
    setattr(disk, fault, OSError(ENOSPC, os.strerror(ENOSPC)))
    for step in range(2, 50):
        bus.publish("train", step, {"loss": 1.0})
    tried = disk.tries
    assert not bus.flush(0.3)
    assert disk.tries - tried < 6, "the delays between retries do not grow"
    assert counts(bus) == (49, 1, 0)
    setattr(disk, fault, None)
    assert bus.flush(20)
    assert counts(bus) == (49, 49, 0)
    bus.publish("train", 50, {"loss": 1.0})
    assert bus.flush()
    by_seq = {line["seq"]: line["step"] for line in journal_lines(run) if line["kind"] == "scalars"}
    assert sorted(by_seq.values()) == list(range(1, 51))
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([w for w in warnings if "cannot write the journal" in w]) == 1
    assert len([w for w in warnings if "works again" in w]) == 1


def test_sinks_get_each_record_once_after_a_disk_failure(disk: FaultyDisk, open_bus: Opener) -> None:
    backend = Backend()
    bus = open_bus(sinks=[MemorySink(backend)], settings=Settings(every=1, poll=0.02))
    bus.publish("train", 1, {"loss": 1.0})
    assert bus.drain(10)
    disk.sync_error = OSError(EIO, "Input/output error")
    for step in (2, 3):
        bus.publish("train", step, {"loss": 1.0})
        assert not bus.flush(0.2)
    disk.sync_error = None
    assert bus.drain(20), "everything was delivered, and drain did not notice"
    assert backend.steps() == [1, 2, 3]
    bus.publish("train", 4, {"loss": 1.0})
    bus.close()
    assert backend.steps() == [1, 2, 3, 4]
    assert backend.closed == ["finished"]


def test_a_hung_disk_delays_the_end_of_the_run_only_up_to_the_timeout(disk: FaultyDisk, open_bus: Opener) -> None:
    bus = open_bus(limits={"close_timeout": 0.3})
    disk.hangs = threading.Event()
    began = time.monotonic()
    for step in range(1, 1001):
        bus.publish("train", step, {"loss": 1.0})
    assert time.monotonic() - began < 2, "publish waited for the disk"
    began = time.monotonic()
    receipt = bus.close(timeout=0.2)
    assert time.monotonic() - began < 3
    assert receipt is not None
    assert (receipt.counts.offered, receipt.counts.journaled) == (1000, 0)
    assert "1000 NOT WRITTEN" in str(receipt)


def test_nothing_is_read_from_a_hung_disk_at_the_end(
    disk: FaultyDisk, open_bus: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.recording.run_closer.receipt", lambda *_: pytest.fail("it was read"))
    bus = open_bus(limits={"close_timeout": 0.2})
    disk.hangs = threading.Event()
    bus.publish("train", 7, {"loss": 1.0})
    receipt = bus.close(timeout=0)
    assert receipt is not None
    assert (receipt.status, receipt.sinks, receipt.counts.offered) == (None, [], 1)


def test_a_hung_callable_delays_the_end_of_the_run_only_up_to_the_timeout(
    open_bus: Opener,
) -> None:
    bus = open_bus(limits={"close_timeout": 0.2})
    release = threading.Event()
    bus.publish("train", 1, lambda: {"loss": float(release.wait(30))})
    began = time.monotonic()
    receipt = bus.close(timeout=0)
    assert time.monotonic() - began < 3
    assert receipt is not None
    assert receipt.counts.journaled == 0
    release.set()


def test_a_run_that_ends_during_a_short_disk_failure_is_closed_with_its_status(
    disk: FaultyDisk, open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    bus.publish("train", 1, {"loss": 1.0})
    assert bus.flush()
    disk.write_error = OSError(ENOSPC, "No space left on device")
    receipts: list[Receipt | None] = []
    closing = threading.Thread(target=lambda: receipts.append(bus.close("preempted")))
    closing.start()
    eventually(lambda: "cannot write the journal" in caplog.text)
    disk.write_error = None
    closing.join()
    assert [line["status"] for line in journal_lines(run) if line["kind"] == "closed"] == ["preempted"]
    assert receipts[0] is not None
    assert (receipts[0].status, receipts[0].counts.journaled) == ("preempted", 1)


def test_after_the_run_folder_is_deleted_recording_continues(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.publish("train", 1, {"loss": 1.0})
    assert bus.flush()
    remove(run)
    bus.publish("train", 2, {"loss": 1.0})
    assert bus.flush(20)
    assert journal_steps(run) == [2]
    remove(run)
    receipt = bus.close("finished", timeout=0)
    assert receipt is not None
    assert receipt.counts.offered == 2
    assert [line["kind"] for line in journal_lines(run)] == ["run", "closed"]


def test_a_run_folder_that_cannot_be_recreated_is_a_warning_and_a_receipt(
    open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(limits={"close_timeout": 0.5}, sinks=[MemorySink(Backend())], settings=Settings(every=1, poll=0.02))
    remove(run)
    run.write_text("a file in its place")
    for step in range(1, 11):
        bus.publish("train", step, {"loss": 1.0})
    receipt = bus.close("finished", timeout=0.2)
    assert receipt is not None
    assert receipt.counts.offered == 10
    assert "10 NOT WRITTEN" in str(receipt)
    assert "cannot write the journal" in caplog.text
    run.unlink()


# Alerts.


def test_alerts_are_recorded_in_order_with_the_points_whatever_the_cadence(open_bus: Opener, run: Path) -> None:
    bus = open_bus(every=10)
    bus.publish("train", 10, {"loss": 1.0})
    bus.alert("spike", "loss 7 after 1", step=13, level="error")
    bus.publish("train", 20, {"loss": 1.0})
    bus.close()
    records = [(line["kind"], line.get("step")) for line in journal_lines(run)[1:4]]
    assert records == [("scalars", 10), ("alert", 13), ("scalars", 20)]
    alert = journal_lines(run)[2]
    assert (alert["title"], alert["text"], alert["level"]) == ("spike", "loss 7 after 1", "error")
    assert alert["cause"] == "reported"
    assert counts(bus) == (3, 3, 0)


def test_long_titles_and_texts_are_cut(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.alert("t" * 1000, "x" * 9000, step=1)
    bus.close()
    alert = journal_lines(run)[1]
    assert (len(alert["title"]), len(alert["text"])) == (250, 4000)


@pytest.mark.parametrize("wrong", [{"title": ""}, {"step": -1}, {"level": "loud"}, {"text": "\ud800"}])
def test_an_alert_that_cannot_be_written_is_a_lost_record(
    open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    bus = open_bus()
    bus.alert(**{"title": "spike", "step": 1} | wrong)
    bus.publish("train", 2, {"loss": 1.0})
    bus.close()
    assert counts(bus) == (2, 1, 1)
    assert journal_steps(run) == [2]
    assert any("dropping alert at" in r.message for r in caplog.records)


def test_alerts_are_delivered_and_counted_in_the_receipt(open_bus: Opener) -> None:
    sink = RecordingSink()
    bus = open_bus(sinks=[sink])
    bus.alert("spike", step=1)
    receipt = bus.close()
    assert receipt is not None
    assert [type(record).__name__ for record in sink.records] == ["Alert"]
    assert [(s.delivered, s.pending) for s in receipt.sinks] == [(1, 0)]


# The end.


def test_points_published_after_close_are_counted_as_lost(open_bus: Opener, caplog: pytest.LogCaptureFixture) -> None:
    bus = open_bus()
    bus.publish("train", 1, {"loss": 1.0})
    bus.close()
    bus.publish("train", 2, {"loss": 1.0})
    bus.publish("train", 3, {"loss": 1.0})
    assert counts(bus) == (3, 1, 2)
    assert len([r for r in caplog.records if "is closed" in r.message]) == 1


def test_close_writes_all_offered_records_and_the_status(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    for step in range(1, 501):
        bus.publish("train", step, lambda: {"loss": 1.0})
    receipt = bus.close("preempted", reason="SIGTERM")
    assert journal_steps(run) == list(range(1, 501))
    last = journal_lines(run)[-1]
    assert (last["kind"], last["status"], last["reason"]) == ("closed", "preempted", "SIGTERM")
    assert receipt is not None
    assert (receipt.status, receipt.step, receipt.journaled) == ("preempted", 500, 500)
    assert "500 records offered, 500 journaled" in str(receipt)


def test_closing_twice_returns_the_same_receipt_and_records_one_end(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    receipt = bus.close("finished")
    assert bus.close("failed") is receipt
    assert [line["status"] for line in journal_lines(run) if line["kind"] == "closed"] == ["finished"]


def test_an_exception_in_the_with_block_closes_the_run_as_failed(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.publish("train", 1, {"loss": 1.0})
    with pytest.raises(RuntimeError), bus:
        raise RuntimeError("loss exploded")
    last = journal_lines(run)[-1]
    assert (last["kind"], last["status"], last["reason"]) == ("closed", "failed", "RuntimeError: loss exploded")


def test_a_with_block_without_exception_closes_the_run_as_finished(open_bus: Opener, run: Path) -> None:
    with open_bus() as bus:
        bus.publish("train", 1, {"loss": 1.0})
    assert journal_lines(run)[-1]["status"] == "finished"


@pytest.mark.parametrize(
    ("ending", "code", "status", "reason"),
    [
        ("", 0, "finished", "the program ended without closing the run"),
        ("raise ValueError('a bad batch')", 1, "failed", "ValueError: a bad batch"),
        ("raise KeyboardInterrupt", -2, "failed", "KeyboardInterrupt"),
        ("with bus: sys.exit(3)", 3, "failed", "SystemExit: 3"),
        ("with bus: sys.exit()", 0, "finished", ""),
    ],
    ids=["end", "exception", "Ctrl-C", "exit code 3", "exit code 0"],
)
def test_a_bus_that_is_never_closed_is_closed_at_exit_with_the_exception_that_ended_the_program(
    tmp_path: Path, ending: str, code: int, status: str, reason: str
) -> None:
    program = f"""
import sys
import telemetry
bus = telemetry.open_run({str(tmp_path / "run")!r}, metrics={{"train/loss": telemetry.Metric()}}, sinks=[])
bus.publish("train", 200, {{"loss": 1.0}})
{ending}
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=False, timeout=60, stderr=subprocess.DEVNULL).returncode == code
    assert journal_steps(tmp_path / "run") == [200]
    last = journal_lines(tmp_path / "run")[-1]
    assert (last["status"], last["reason"]) == (status, reason)


def test_a_second_thread_that_closes_waits_for_the_first(open_bus: Opener) -> None:
    entered, release = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        release.wait(10)

    backend = Backend(faults=[hold])
    bus = open_bus(sinks=[MemorySink(backend)], settings=Settings(every=1, poll=0.02))
    bus.publish("train", 1, {"loss": 1.0})
    assert entered.wait(10)
    receipts: list[object] = []
    threads = [threading.Thread(target=lambda: receipts.append(bus.close())) for _ in range(2)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert receipts[0] is not None
    assert receipts[0] is receipts[1]


# Forks.


def test_a_forked_child_writes_nothing_says_so_once_and_its_exit_does_not_close_the_run(
    open_bus: Opener, run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exit_handlers: list[Callable[[], object]] = []
    monkeypatch.setattr("atexit.register", exit_handlers.append)
    bus = open_bus(sinks=[MemorySink(Backend())], settings=Settings(every=1, poll=0.02))
    assert len(exit_handlers) == 1
    bus.publish("train", 1, {"loss": 1.0})
    assert bus.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bus.publish("train", 2, {"loss": 1.0})
            bus.publish("train", 3, lambda: {"loss": 1.0}, final=True)
            bus.publish("train", -1, {"loss": 1.0})
            bus.alert("a spike", step=3)
            quick = bus.flush(60) and bus.drain(60)
            exit_handlers[0]()
            (told,) = [r.message for r in caplog.records]
            forked = "is recorded: it was forked after process" in told and "rank 0" in told
            code = 0 if quick and bus.close() is None and forked else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counts(bus) == (1, 1, 0)
    bus.publish("train", 4, {"loss": 1.0})
    assert bus.flush()
    assert journal_steps(run) == [1, 4]
    assert [line["kind"] for line in journal_lines(run)] == ["run", "scalars", "scalars"]


def test_a_child_forked_while_the_queue_is_locked_is_not_blocked(open_bus: Opener) -> None:
    bus = open_bus()
    children: list[int] = []

    def use() -> None:
        bus.publish("train", 2, {"loss": 1.0})
        bus.flush(60)
        bus.drain(60)
        bus.counts()
        bus.close()

    class ForkingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if children:
                return
            children.append(os.fork())
            if children[0] == 0:
                # The lock belongs to the thread that forked; any other would wait for it forever.
                using = threading.Thread(target=use, daemon=True)
                using.start()
                using.join(5)
                os._exit(1 if using.is_alive() else 0)

    handler = ForkingHandler()
    logging.getLogger("telemetry").addHandler(handler)
    try:
        bus.publish("train", 5, {"loss": 1.0})
        # The queue warns about the decreasing step while it is locked.
        bus.publish("train", 1, {"loss": 1.0})
    finally:
        logging.getLogger("telemetry").removeHandler(handler)
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Heartbeats.


def test_the_trainer_counts_as_alive_until_the_run_is_closed(open_bus: Opener, run: Path) -> None:
    watch = telemetry.run_folder.trainer_liveness.TrainerLivenessProbe(run)
    bus = open_bus()
    assert watch.is_alive() is True
    bus.close()
    assert watch.is_alive() is False


def test_the_last_heartbeat_has_the_final_counts(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.publish("train", 7, {"loss": 1.0})
    bus.publish("train", 8, lambda: 1 / 0)
    bus.close()
    alive = telemetry.run_folder.heartbeat.read_heartbeat(run)
    assert alive is not None
    assert (alive.beat, alive.counts.offered, alive.counts.journaled, alive.counts.lost) == (-1, 2, 1, 1)
    assert alive.counts.step == 7


def test_all_public_errors_have_the_same_base_class() -> None:
    errors = [getattr(telemetry, n) for n in telemetry.__all__]
    errors = [e for e in errors if isinstance(e, type) and issubclass(e, Exception)]
    assert errors
    assert all(issubclass(e, TelemetryError) for e in errors)


# Anomaly detection.


def test_a_detected_anomaly_follows_its_point_and_counts_as_offered(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {"train/loss": Metric(watch=True)}
    with open_run(run, metrics=metrics, sinks=[], settings=Settings(every=1)) as bus:
        for step, loss in enumerate((1.0, math.nan, math.nan, 1.0), start=1):
            bus.publish("train", step, {"loss": loss})
        bus.flush(10)
        assert counts(bus) == (6, 6, 0)
    records = [(r["kind"], r.get("step"), r.get("cause"), r.get("recovered")) for r in journal_lines(run)[1:-1]]
    assert records == [
        ("scalars", 1, None, None),
        ("scalars", 2, None, None),
        ("alert", 2, "non-finite", None),
        ("scalars", 3, None, None),
        ("scalars", 4, None, None),
        ("alert", 4, "non-finite", True),
    ]
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ["iteration 2: train/loss is NaN"]


def test_the_caller_can_read_current_alerts_and_divergence(run: Path) -> None:
    metrics = {"train/loss": Metric(watch=True)}
    with open_run(run, metrics=metrics, sinks=[], settings=Settings(every=1)) as bus:
        bus.publish("train", 1, {"loss": math.nan})
        bus.flush(10)
        assert [alert.title for alert in bus.alerts] == ["train/loss is NaN"]
        assert bus.diverged == Divergence("train/loss is NaN", after=0)
        bus.publish("train", 2, {"loss": 1.0})
        bus.flush(10)
        assert (bus.alerts, bus.diverged) == ((), None)


def test_silence_raises_an_alert_while_the_training_hangs(open_bus: Opener, run: Path) -> None:
    settings = Settings(every=1, watch=AlertSettings(stalled=0.2))
    with open_bus(limits={"supervise_interval": 0.01}, settings=settings) as bus:
        for step in (1, 2):
            bus.publish("train", step, {"loss": 1.0})
            bus.flush(10)
        eventually(lambda: [alert.cause for alert in bus.alerts] == ["stalled"])
        bus.publish("train", 3, {"loss": 1.0})
        bus.flush(10)
        assert bus.alerts == ()
    assert [r["cause"] for r in journal_lines(run) if r["kind"] == "alert"] == ["stalled", "stalled"]


# Misuse.


def test_without_declarations_values_of_any_name_are_recorded_unconverted(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", sinks=[], settings=Settings(every=1)) as bus:
        bus.publish("train", 1, {"anything": 3})
        bus.flush(10)
        bus.publish("train", 2, {"anything": 4})
        bus.flush(10)
        assert counts(bus) == (3, 3, 0)
    declared, *points = journal_lines(tmp_path / "run")[1:-1]
    assert (declared["kind"], list(declared["metrics"])) == ("update", ["train/anything"])
    assert [line["values"] for line in points] == [{"anything": 3.0}, {"anything": 4.0}]
    run = telemetry.read_run(tmp_path / "run")
    assert run.header.metrics["train/anything"].unit == run.curves["train/anything"].unit == ""


def test_names_and_parameters_that_appear_survive_a_resume_and_a_pattern_declares_units(tmp_path: Path) -> None:
    energy = Metric(unit="kcal/mol", source_unit="eV/particle", watch=True)
    opening: dict[str, Any] = {"sinks": [], "settings": Settings(every=1), "resume": True}
    with open_run(tmp_path / "run", metrics={"*/E_rmse": energy}, params={"lr": 1}, **opening) as bus:
        bus.publish("val", 1, {"E_rmse": 1.0, "other": 2.0})
        bus.params({"lr": 0.5, "nested": {"password": "hunter2", "layers": 3}})
    run = telemetry.read_run(tmp_path / "run")
    assert run.header.params == {"lr": 0.5, "nested": {"password": "***", "layers": 3}}
    with open_run(tmp_path / "run", **opening) as bus:
        bus.publish("val", 2, {"E_rmse": 1.0, "other": 2.0})
    run = telemetry.read_run(tmp_path / "run")
    assert run.header.metrics == {"val/E_rmse": energy, "val/other": UNDECLARED}
    assert run.curves["val/E_rmse"].values.tolist() == [pytest.approx(23.060547830619)] * 2
    assert [line["kind"] for line in journal_lines(tmp_path / "run") if line["kind"] == "update"] == ["update"] * 2


def test_a_metric_declared_late_is_watched(open_bus: Opener) -> None:
    bus = open_bus()
    bus.declare({"late/*_loss": Metric(watch=True)})
    bus.publish("late", 1, {"a_loss": float("nan")})
    assert bus.flush()
    assert bus.diverged is not None
    with pytest.raises(UnitError, match="late/x"):
        bus.declare({"late/x": Metric(unit="gibberish")})


def test_parameters_without_names_are_lost_and_reported(open_bus: Opener, caplog: pytest.LogCaptureFixture) -> None:
    bus = open_bus()
    bus.params([1, 2])
    assert bus.flush()
    assert bus.counts().dropped == {"invalid parameters": 1}
    assert "dropping parameters: params is of type list" in caplog.text


def test_the_host_may_decide_what_is_due(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", sinks=[], settings=Settings(events=("*",))) as bus:
        bus.publish("train", 7, {"loss": 1.0})
        bus.publish("anything", 13, {"loss": 1.0})
    curves = telemetry.read_run(tmp_path / "run").curves
    assert {name: curve.steps.tolist() for name, curve in curves.items()} == {"train/loss": [7], "anything/loss": [13]}
    assert NullBus(events=("*",)).due("train", 7)


def test_a_decreasing_step_is_recorded_with_one_warning(
    open_bus: Opener, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    for step in (1, 5, 3, 2, 6):
        bus.publish("train", step, {"loss": 1.0})
    bus.publish("val", 3, {"loss": 1.0})
    bus.close()
    assert journal_steps(run) == [1, 5, 3, 2, 6]
    assert [r.message for r in caplog.records if "decreased" in r.message] == [
        "step of train decreased from 5 to 3; pass resume_step when resuming a run"
    ]


def test_a_resume_without_metrics_keeps_the_declarations(tmp_path: Path) -> None:
    metrics = {"val/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle")}
    settings = Settings(every=1)
    with open_run(tmp_path / "run", metrics=metrics, sinks=[], settings=settings) as bus:
        bus.publish("val", 1, {"E_rmse": 1.0})
    with open_run(tmp_path / "run", sinks=[], settings=settings, resume_step=1) as bus:
        bus.publish("val", 2, {"E_rmse": 1.0})
    values = telemetry.read_run(tmp_path / "run").curves["val/E_rmse"].values
    assert values[0] == values[1] == pytest.approx(23.060547830619)


@pytest.mark.parametrize(
    ("stream", "name", "step"), [("train", "", 2), ("train", "n" * 251, 2), ("", "loss", 2), ("train", "loss", 1 << 62)]
)
def test_records_that_readers_would_reject_are_lost_and_leave_no_gap(
    tmp_path: Path, stream: str, name: str, step: int
) -> None:
    metrics = {"train/loss": Metric(), "val/loss": Metric()}
    with open_run(tmp_path / "run", metrics=metrics, sinks=[], settings=Settings(every=1)) as bus:
        bus.publish("train", 1, {"loss": 1.0})
        bus.publish(stream, step, {name: 1.0})
        bus.publish("val", 3, {"loss": 1.0})
        bus.flush(10)
        assert counts(bus) == (3, 2, 1)
    run = telemetry.read_run(tmp_path / "run")
    assert (run.skipped.damaged, run.skipped.lost) == (0, 0)
    assert set(run.curves) == {"train/loss", "val/loss"}


def test_the_step_of_an_alert_may_be_of_another_integer_type(open_bus: Opener, run: Path) -> None:
    class Index:
        def __index__(self) -> int:
            return 5

    bus = open_bus()
    bus.alert("spike", step=Index())  # type: ignore[arg-type]
    bus.close()
    assert [r["step"] for r in journal_lines(run) if r["kind"] == "alert"] == [5]


def test_a_sinks_folder_that_is_a_link_is_rejected(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", sinks=[], settings=Settings(every=1)) as bus:
        bus.publish("train", 1, {"loss": 1.0})
    (tmp_path / "run" / "sinks").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "sinks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(telemetry.RunFolderError, match="sinks is a link"):
        open_run(tmp_path / "run", sinks=[], settings=Settings(every=1), resume_step=1)


def test_the_texts_of_an_alert_may_be_objects(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    bus.alert(ValueError("a bad batch"), None, step=1)  # type: ignore[arg-type]
    assert bus.flush()
    (alert,) = (line for line in journal_lines(run) if line["kind"] == "alert")
    assert (alert["title"], alert["text"]) == ("a bad batch", "None")


def test_a_group_may_be_a_single_stream(open_bus: Opener, run: Path) -> None:
    with open_bus() as bus:
        bus.publish_group("train", 1, {"train": {"loss": 1.0}})
    assert journal_steps(run) == [1]


def test_a_stream_that_is_not_a_string_is_an_invalid_name(open_bus: Opener, caplog: pytest.LogCaptureFixture) -> None:
    bus = open_bus()
    bus.publish(5, 1, {"loss": 1.0})  # type: ignore[arg-type]
    assert bus.flush()
    assert bus.counts().dropped == {"invalid name": 1}
    assert "dropping 5 at iteration 1: the name 5 is of type int; names are strings" in caplog.text


def test_an_unknown_status_is_an_error_and_the_run_stays_open(open_bus: Opener, run: Path) -> None:
    bus = open_bus()
    with pytest.raises(SettingError, match="status is 'done'; expected finished, failed, preempted, killed"):
        bus.close("done")  # type: ignore[arg-type]
    bus.publish("train", 1, {"loss": 1.0})
    bus.close("failed", reason=ValueError("a bad batch"))  # type: ignore[arg-type]
    assert journal_steps(run) == [1]
    assert journal_lines(run)[-1]["reason"] == "a bad batch"


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_without_a_text_closes_the_run_as_failed(open_bus: Opener, run: Path) -> None:
    with pytest.raises(UnprintableError), open_bus():
        raise UnprintableError
    last = journal_lines(run)[-1]
    assert (last["status"], last["reason"]) == ("failed", "UnprintableError")


def test_a_script_may_change_its_working_directory_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    bus = open_run("run", sinks="tensorboard", settings=Settings(every=1, poll=0.02, delivery="thread"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    bus.publish("train", 1, {"loss": 1.0})
    receipt = bus.close()
    assert receipt is not None
    assert (receipt.status, receipt.sinks[0].delivered, receipt.sinks[0].pending) == ("finished", 2, 0)
    assert journal_steps(tmp_path / "run") == [1]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_warning_about_many_dropped_values_names_only_a_few(
    open_bus: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    bus.publish("train", 1, {f"text_{number}": "high" for number in range(1000)})
    bus.flush()
    (message,) = [r.message for r in caplog.records if "dropping" in r.message]
    assert "text_4 and 995 others of train" in message
    assert len(message) < 300
