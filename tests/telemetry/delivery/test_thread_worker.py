"""Delivery from threads of the trainer: sinks passed as objects, and ``delivery=thread``."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import (
    METRICS,
    Backend,
    HandMadeRun,
    MemorySink,
    eventually,
    lines_of,
    offer_sinks,
    row_steps,
    sink_for,
)
from telemetry import MetricBus, Settings, open_run
from telemetry.backoff import Backoff
from telemetry.delivery.delivery import Delivery
from telemetry.delivery.thread_worker import ThreadWorker
from telemetry.run_folder.sink_progress import read_progress
from telemetry.sink_api import SinkUnavailable

OpenBus = Callable[..., MetricBus]


@pytest.fixture
def open_bus(tmp_path: Path) -> Iterator[OpenBus]:
    buses: list[MetricBus] = []

    def open_it(*sinks: object, **more: Any) -> MetricBus:
        settings = Settings(**{"every": 1, "poll": 0.02, "drain_timeout": 5.0} | more)
        buses.append(open_run(tmp_path / "run", metrics=METRICS, sinks=sinks, settings=settings))
        return buses[-1]

    yield open_it
    for bus in buses:
        bus.close(timeout=0)


def publish(bus: MetricBus, *steps: int) -> None:
    for step in steps:
        bus.publish("train", step, {"loss": float(step)})


def test_a_sink_object_is_delivered_to_from_a_thread(open_bus: OpenBus) -> None:
    memory = Backend()
    bus = open_bus(MemorySink(memory))
    publish(bus, 1, 2, 3)
    assert bus.drain(10)
    assert memory.steps() == [1, 2, 3]
    bus.close()
    assert memory.closed == ["finished"]
    assert [t.name for t in threading.enumerate() if t.name.startswith("telemetry-")] == []


def test_a_named_sink_is_delivered_to_from_a_thread_on_request(
    open_bus: OpenBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_sinks(tmp_path / "site", file="support.telemetry_fakes:FileSink")
    monkeypatch.syspath_prepend(tmp_path / "site")
    backend = tmp_path / "backend"
    bus = open_bus("file", delivery="thread", options={"file": {"backend": str(backend)}})
    publish(bus, 1, 2)
    bus.close()
    assert row_steps(backend) == [1, 2]
    assert [int(line.split()[0]) for line in lines_of(backend / "opened")] == [os.getpid()]


def test_a_hung_sink_delays_neither_another_sink_nor_the_end_of_the_run(
    open_bus: OpenBus, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(60)

    hung, healthy = Backend(faults=[hang]), Backend(destination="healthy")
    sinks = MemorySink(hung, "hung"), MemorySink(healthy, "healthy")
    bus = open_bus(*sinks, drain_timeout=0.5, hook_timeout=0.1)
    publish(bus, 1, 2)
    eventually(lambda: healthy.steps() == [1, 2])
    eventually(lambda: "hung: no answer for" in caplog.text)
    began = time.monotonic()
    receipt = bus.close()
    assert time.monotonic() - began < 2.5
    release.set()
    assert receipt is not None
    assert [(sink.name, sink.pending) for sink in receipt.sinks] == [("healthy", 0), ("hung", 2)]
    assert healthy.closed == ["finished"]


def test_a_thread_retries_a_failing_sink_until_it_recovers(tmp_path: Path) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(1, 2)
    memory = Backend(down=SinkUnavailable("no network"))
    quick = functools.partial(Delivery, backoff=Backoff(0.01, 0.02))
    worker = ThreadWorker(run.folder, sink_for(memory), Settings(poll=0.02), make_delivery=quick)
    worker.start()
    eventually(lambda: (progress := read_progress(run.folder, "memory")) is not None and progress.retries > 2)
    memory.down = None
    eventually(lambda: memory.steps() == [1, 2])
    run.close()
    worker.wake()
    worker.join(20)
    assert memory.closed == ["finished"]


def test_a_thread_can_be_stopped_while_its_sink_is_down(tmp_path: Path) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(1)
    worker = ThreadWorker(run.folder, sink_for(Backend(down=SinkUnavailable("no network"))), Settings())
    worker.start()
    eventually(lambda: read_progress(run.folder, "memory") is not None)
    worker.stop()
    worker.join(20)
    assert [t.name for t in threading.enumerate() if t.name == "telemetry-memory"] == []


def test_a_thread_that_cannot_be_started_loses_no_record(
    open_bus: OpenBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(MemorySink(Backend()))

    def start(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", start)
    publish(bus, 1, 2)
    assert bus.flush()
    monkeypatch.undo()
    receipt = bus.close()
    assert "memory: cannot start delivery (can't start new thread)" in caplog.text
    assert receipt is not None
    assert receipt.counts.journaled == 2


def test_drain_gives_up_after_its_timeout(open_bus: OpenBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    memory = Backend(down=SinkUnavailable("no network"))
    bus = open_bus(MemorySink(memory), drain_timeout=0.1)
    publish(bus, 1)
    began = time.monotonic()
    assert not bus.drain(0.3)
    assert time.monotonic() - began < 5
