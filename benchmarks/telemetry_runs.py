"""Variants of this package: error sums of every batch, published by the trainer's reporter."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ignite.engine import Engine, Events
from iteration_time import IterationTimer
from pooled_loss import TERMS, losses
from workload import FIDELITIES, LABELS, built_in

from aimnet2mult.metrics.declarations import declare
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.statistics import POOLED
from aimnet2mult.train.reporter import Reporter
from telemetry import Metric, MetricBus, Settings, open_run
from telemetry.run_folder.sink_progress import read_progress

DRAIN_TIMEOUT = 5.0
"""Maximum time in seconds that closing a run waits for its sinks."""
START_TIMEOUT = 60.0
"""Maximum time in seconds for the sinks of a run to start."""


class MinimalEngine:
    """A stand-in for ignite's engine with the methods and state that the reporter uses."""

    def __init__(self, total: int) -> None:
        self.state = SimpleNamespace(iteration=0, epoch=1, max_epochs=1, epoch_length=total + 1, grad_norm=None)
        self._handlers: dict[Events, Callable[..., None]] = {}

    def add_event_handler(self, event: Events, handler: Callable[..., None]) -> None:
        """Register the handler of an event."""
        self._handlers[event] = handler

    def fire(self, event: Events) -> None:
        """Call the handler of an event."""
        self._handlers[event](self)


def open_bus(folder: Path, sinks: tuple[str, ...], destination: dict[str, Any], every: int = 200) -> MetricBus:
    """Open a run with the metrics of a training."""
    metrics = {
        name: Metric(unit=info.unit, source_unit=info.source_unit, label=info.text)
        for name, info in declare(built_in(*LABELS), FIDELITIES, {}, TERMS.names).items()
    }
    options = {
        "wandb": {"mode": "offline"},
        "mlflow": {"tracking_uri": destination["mlflow"], "experiment": destination["experiment"]},
    }
    settings = Settings(
        sinks=sinks,
        every=every,
        drain_timeout=DRAIN_TIMEOUT,
        linger=1.0,
        options={name: options.get(name, {}) for name in sinks},
    )
    return open_run(folder, metrics=metrics, settings=settings)


def await_deliveries(folder: Path, sinks: tuple[str, ...], is_ready: Callable[[str], bool]) -> None:
    """Wait, up to a timeout, until ``is_ready`` is true for the state of every delivery."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        progress = [read_progress(folder, name) for name in sinks]
        if all(each is not None and is_ready(each.state) for each in progress):
            return
        time.sleep(0.1)


def child_processes() -> list[int]:
    """Return the process IDs of the children of this process."""
    pids: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        pids += map(int, path.read_text().split())
    return pids


def send_signal(number: signal.Signals, pids: list[int]) -> None:
    """Send a signal to processes; ignore those that have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def run(
    timer: IterationTimer,
    home: Path,
    destination: dict[str, Any],
    *,
    sinks: tuple[str, ...] = (),
    backend: str = "healthy",
    between_blocks: str = "drain",
) -> None:
    """Train with a bus.

    Args:
        timer: the timer that runs the steps.
        home: the folder of the variant.
        destination: the result of ``Backends.destination``.
        sinks: names of the sinks.
        backend: ``healthy``, ``slow``, ``unreachable``, or ``suspended`` for stopped delivery processes.
        between_blocks: treatment of deliveries while other variants run: ``drain`` waits until they are idle, ``stop``
            suspends them until the next block, so that each block includes the delivery of its points.
    """
    folder = home / "run"
    bus = open_bus(folder, sinks, destination, timer.every)
    sums = ErrorSums(built_in(*LABELS), len(FIDELITIES), "cpu", POOLED.quantities, loss=TERMS)
    reporter = Reporter(
        bus,
        train_sums=sums,
        labels=built_in(*LABELS),
        fidelity_names=FIDELITIES,
        optimizer=timer.step.optimizer,
    )
    engine = MinimalEngine(timer.total)
    reporter.attach(cast("Engine", engine))
    any_state = backend == "unreachable"
    await_deliveries(folder, sinks, lambda state: any_state or state == "delivering")
    workers = child_processes()
    if backend == "suspended":
        send_signal(signal.SIGSTOP, workers)
    elif between_blocks == "stop":
        timer.after_block = lambda: send_signal(signal.SIGSTOP, workers)
        timer.before_block = lambda: send_signal(signal.SIGCONT, workers)
    elif backend != "unreachable":
        timer.after_block = lambda: bus.drain(30)
    engine.fire(Events.STARTED)
    for step in timer.steps():
        batch = timer.run_step()
        sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses(batch.loss))
        engine.state.iteration, engine.state.grad_norm = step, batch.loss
        engine.fire(Events.ITERATION_COMPLETED)
    if between_blocks == "stop":
        send_signal(signal.SIGCONT, workers)
    start = time.perf_counter()
    bus.close()
    timer.report(close_seconds=time.perf_counter() - start)
    if backend == "suspended":
        send_signal(signal.SIGCONT, workers)
