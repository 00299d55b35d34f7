"""The variants of this package: the error sums of every batch, and what the trainer's reporter makes of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batches import FIDELITIES, LABELS
from ignite.engine import Events
from pace import Pace

from aimnet2mult.metrics.declarations import declare
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.statistics import POOLED
from aimnet2mult.train.reporter import Reporter
from telemetry import Metric, MetricBus, Settings, open_run
from telemetry.run_folder.sink_progress import read_progress

ALL = ("tensorboard", "wandb", "mlflow")
DRAIN = 5.0
"""Seconds that the end of a run waits for its sinks."""
START = 60.0
"""Seconds that the sinks of a run may take to start."""


class Loop:
    """As much of a training engine as the reporter needs."""

    def __init__(self, total: int) -> None:
        self.state = SimpleNamespace(iteration=0, epoch=1, max_epochs=1, epoch_length=total + 1, grad_norm=None)
        self._handlers: dict[Events, Callable[..., None]] = {}

    def add_event_handler(self, event: Events, handler: Callable[..., None]) -> None:
        """Take a handler."""
        self._handlers[event] = handler

    def fire(self, event: Events) -> None:
        """Call an event's handler."""
        self._handlers[event](self)


def open_bus(folder: Path, sinks: tuple[str, ...], where: dict[str, Any], every: int = 200) -> MetricBus:
    """Open a run with the metrics of training."""
    metrics = {
        name: Metric(unit=info.unit, source_unit=info.source_unit, label=info.text)
        for name, info in declare(LABELS, FIDELITIES, {}).items()
    }
    options = {
        "wandb": {"mode": "offline"},
        "mlflow": {"tracking_uri": where["mlflow"], "experiment": where["experiment"]},
    }
    settings = Settings(
        sinks=sinks,
        every=every,
        drain_timeout=DRAIN,
        linger=1.0,
        options={name: options.get(name, {}) for name in sinks},
    )
    return open_run(folder, metrics=metrics, settings=settings)


def await_start(folder: Path, sinks: tuple[str, ...], state: Callable[[str], bool]) -> None:
    """Wait until all deliveries have come to a state, for a while."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        told = [read_progress(folder, name) for name in sinks]
        if all(each is not None and state(each.state) for each in told):
            return
        time.sleep(0.1)


def children() -> list[int]:
    """Give the processes that this one has started."""
    pids: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        pids += map(int, path.read_text().split())
    return pids


def send(number: signal.Signals, pids: list[int]) -> None:
    """Send a signal to processes that may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def run(
    pace: Pace,
    home: Path,
    where: dict[str, Any],
    *,
    sinks: tuple[str, ...] = (),
    backend: str = "healthy",
    pausing: str = "drain",
) -> None:
    """Train with a bus.

    Args:
        pace: gives the steps.
        home: the variant's own folder.
        where: see ``open_bus``.
        sinks: their names.
        backend: ``healthy``, ``slow``, ``dead``, or ``frozen`` for deliveries that are stopped.
        pausing: what is done about deliveries before it is another's turn: ``drain`` waits until they have nothing
            left to do; ``stop`` stops them until it is this one's turn again: a block then delivers as much as it has
            points.
    """
    folder = home / "run"
    bus = open_bus(folder, sinks, where, pace.every)
    sums = ErrorSums(LABELS, len(FIDELITIES), "cpu", POOLED.quantities)
    reporter = Reporter(
        bus, train_sums=sums, val_sums=sums, labels=LABELS, fidelity_names=FIDELITIES, optimizer=pace.step.optimizer
    )
    loop = Loop(pace.total)
    reporter.attach(loop)
    dead = backend in {"dead", "frozen"}
    await_start(folder, sinks, (lambda _: True) if backend == "dead" else (lambda state: state == "delivering"))
    workers = children()
    if backend == "frozen":
        send(signal.SIGSTOP, workers)
    elif pausing == "stop":
        pace.after, pace.before = lambda: send(signal.SIGSTOP, workers), lambda: send(signal.SIGCONT, workers)
    elif not dead:
        pace.after = lambda: bus.drain(30)
    loop.fire(Events.STARTED)
    for step in pace.steps():
        batch = pace.work()
        sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, batch.loss)
        loop.state.iteration, loop.state.grad_norm = step, batch.loss
        loop.fire(Events.ITERATION_COMPLETED)
    if pausing == "stop":
        send(signal.SIGCONT, workers)
    began = time.perf_counter()
    bus.close()
    pace.broadcast(closed=time.perf_counter() - began, drain=DRAIN)
    if backend == "frozen":
        send(signal.SIGCONT, workers)
