"""Publish the statistics of training and evaluations: the only module that connects the engine to the bus."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from aimnet2mult.metrics.error_sums import ErrorSums, Slot, Snapshot
from aimnet2mult.quantities import Label
from aimnet2mult.train.engine import LossFunction, epoch_length, total_iterations
from aimnet2mult.train.iteration_rate import IterationRate
from aimnet2mult.train.scheduled_values import ScheduledValues
from aimnet2mult.train.skipped_structures import SkippedStructures
from aimnet2mult.train.stream_values import StreamValues
from telemetry import Alert, Divergence, Metric

__all__ = ["Alert", "Bus", "Reporter"]

logger = logging.getLogger(__name__)

PERIODIC_STREAMS = ("train", "train_window")
VALIDATION_STREAM = "val"
EVALUATIONS = {
    VALIDATION_STREAM: "validation",
    "test": "the test",
    "train_eval": "the evaluation of the training data",
}
"""The streams of evaluations, and what messages call them."""

LOADER_WAIT = Metric(unit="%", label="share of the time in which the training waits for data")

MetricValues = dict[str, float]


class Bus(Protocol):
    """The part of `telemetry.MetricBus` that training uses."""

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Active anomaly alerts."""
        ...

    @property
    def diverged(self) -> Divergence | None:
        """Why the run is considered diverged, or None."""
        ...

    @property
    def last_healthy_step(self) -> int:
        """The last iteration with finite watched metrics and no loss far above its usual or lowest level."""
        ...

    def due(self, stream: str, step: int) -> bool:
        """Return whether the stream has a point at this iteration."""
        ...

    def publish(self, stream: str, step: int, values: Callable[[], MetricValues], *, final: bool = False) -> None:
        """Publish a point, ``final`` even if it is not due; the thread of the bus calls ``values`` to compute it."""
        ...

    def publish_group(
        self, streams: Sequence[str], step: int, values: Callable[[], dict[str, MetricValues]], *, final: bool = False
    ) -> None:
        """Publish a point in each of several streams at once; ``final`` publishes it even if it is not due."""
        ...

    def alert(self, title: str, text: str = "", *, step: int) -> None:
        """Publish an alert to every sink."""
        ...

    def text(self, name: str, step: int, text: str | Callable[[], str]) -> None:
        """Publish a text."""
        ...

    def table(
        self, name: str, step: int, columns: Sequence[str], rows: Callable[[], Sequence[Sequence[object]]]
    ) -> None:
        """Publish a table; a thread of the bus calls ``rows``."""
        ...

    def image(self, name: str, step: int, content: Callable[[], bytes], caption: str = "") -> None:
        """Publish an image; a thread of the bus calls ``content``, which returns it as PNG."""
        ...

    def sample(self, name: str, metric: Metric, read: Callable[[], float]) -> None:
        """Record a value of the stream ``system``, read by a thread of the bus."""
        ...

    def artifact(self, name: str, step: int, path: Path, type: str = "file") -> None:  # noqa: A002 - as in `MetricBus`
        """Publish a file."""
        ...

    def flush(self, *, media: bool = True) -> bool:
        """Wait until all published points, and if ``media``, all other records, are in the journal."""
        ...


class Reporter:
    """A publisher of the statistics of training and evaluations at the global iteration.

    At a due iteration, ``train`` and ``train_window`` are published together, and a new window starts. The last
    iteration has an additional point that leaves the window open, so that a run resumed for more epochs has the same
    windows as an uninterrupted one. The thread of the bus waits for copies from the device.

    Every rank has a reporter, since publishing sums over the ranks; all but one have a `telemetry.NullBus`.

    Args:
        bus: bus to which points are published.
        train_sums: error sums of the training batches.
        labels: the labels.
        fidelity_names: one name per fidelity.
        optimizer: optimizer; the learning rate of its first parameter group is published as ``lr``.
        lr_groups: position of each parameter group whose learning rate is published under its name, where it differs.
        loss_fn: loss function; if its weights change, they are published.
        val_every: iterations between validations, each of which may end the training; by default, they end epochs.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        train_sums: ErrorSums,
        labels: Sequence[Label],
        fidelity_names: Sequence[str],
        optimizer: Optimizer,
        lr_groups: Mapping[str, int] | None = None,
        loss_fn: LossFunction | None = None,
        val_every: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._train_sums = train_sums
        self.values = StreamValues(labels, fidelity_names, train_sums.layout.loss)
        """The values of all streams, computed by the thread of the bus."""
        self._scheduled = ScheduledValues(optimizer, lr_groups or {}, loss_fn)
        self._val_every = val_every
        self._rate = IterationRate(clock)
        self._others: Callable[[], MetricValues] | None = None
        self._has_first = False

    def attach(self, trainer: Engine) -> None:
        """Publish the statistics of an engine returned by `build_trainer`."""
        trainer.add_event_handler(Events.STARTED, lambda engine: self._rate.start(engine.state.iteration))
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)

    def sample_waiting(self, percentage: Callable[[], float]) -> None:
        """Record how long the training waits for data, next to the system metrics."""
        self._bus.sample("loader_wait", LOADER_WAIT, percentage)

    def is_due(self, engine: Engine) -> bool:
        """Return whether the current iteration has a point in ``train``: it is due or is the last one."""
        step = engine.state.iteration
        return self._bus.due("train", step) or step == total_iterations(engine)

    def paused(self) -> AbstractContextManager[None]:
        """Do not count the time in the block as time of training, in ``it_per_s``."""
        return self._rate.paused()

    def publish_last(self, engine: Engine) -> None:
        """Publish a point for the iteration that ends an epoch, if it has none, because the training ends with it."""
        if not self.is_due(engine) and self._others is not None:
            self._publish_point(engine, self._others, ends_window=False)

    def state_dict(self) -> dict[str, float]:
        """Return what, besides the error sums, `publish_last` needs after a resume; waits for the device."""
        return {} if self._others is None else self._others()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state from `state_dict`."""
        self._others = (lambda: dict(state)) if state else None

    def publish_evaluation(
        self, stream: str, sums: ErrorSums, step: int, skipped: SkippedStructures | None = None, **others: float
    ) -> Snapshot:
        """Publish the sums of an evaluation after iteration ``step``, with other values, and return the sums.

        An alert names the skipped structures that were not named before.
        """
        copied = sums.snapshot()
        flags = None if skipped is None else skipped.snapshot()

        def values() -> MetricValues:
            found = self.values.compute(stream, copied.wait()[Slot.EPOCH], **others)
            number = found["skipped_structures"]
            if number and skipped is not None and flags is not None:
                _report_skipped(self._bus, stream, skipped.describe_new(flags.wait()), number, step)
            return found

        # For the bus, only the validation is always due.
        self._bus.publish(stream, step, values, final=stream != VALIDATION_STREAM)
        return copied

    def _start_epoch(self, engine: Engine) -> None:
        # An epoch that is resumed in the middle keeps its sums.
        if engine.state.iteration % epoch_length(engine) == 0:
            self._train_sums.reset(Slot.EPOCH)

    def _complete_iteration(self, engine: Engine) -> None:
        step = engine.state.iteration
        ends_window, ends_epoch = self._bus.due("train", step), not step % epoch_length(engine)
        is_due = ends_window or (ends_epoch and step == total_iterations(engine))
        if not is_due and not self._has_first:
            self._show_first()
        if not (is_due or ends_epoch or (self._val_every and not step % self._val_every)):
            return
        # A schedule may change the learning rate before `publish_last`.
        others = {
            **self._scheduled.learning_rates(),
            "it_per_s": self._rate.measure(step),
            "epoch": engine.state.epoch,
        }
        norm = Snapshot(engine.state.grad_norm.double())  # type: ignore[attr-defined] # see build_trainer
        weights = self._scheduled.loss_weights()
        self._others = lambda: {"grad_norm": norm.wait().item(), **weights(), **others}
        if is_due:
            self._publish_point(engine, self._others, ends_window=ends_window)

    def _publish_point(self, engine: Engine, others: Callable[[], MetricValues], *, ends_window: bool) -> None:
        """Publish the statistics of the batch and of the window, which otherwise stays open."""
        self._has_first = True
        step, sums = engine.state.iteration, self._train_sums.snapshot()

        def values() -> dict[str, MetricValues]:
            slots = sums.wait()
            return {
                "train": self.values.compute("train", slots[Slot.BATCH], **others()),
                "train_window": self.values.compute("train_window", slots[Slot.WINDOW]),
            }

        if ends_window:
            self._train_sums.reset(Slot.WINDOW)
            self._rate.restart(step)
        # Publish last: afterwards the thread of the bus competes for the interpreter lock with calls to torch.
        self._bus.publish_group(PERIODIC_STREAMS, step, values, final=not ends_window)

    def _show_first(self) -> None:
        """Store the values of the first batch in `latest`, long before the first point is due."""
        self._has_first = True
        sums = self._train_sums.snapshot()
        # Another thread waits for the device.
        threading.Thread(target=lambda: self.values.compute("train", sums.wait()[Slot.BATCH]), daemon=True).start()

    def _complete_epoch(self, engine: Engine) -> None:
        sums, epoch = self._train_sums.snapshot(), engine.state.epoch
        self._bus.publish(
            "train_epoch",
            engine.state.iteration,
            lambda: self.values.compute("train_epoch", sums.wait()[Slot.EPOCH], epoch=epoch),
        )


def _report_skipped(bus: Bus, stream: str, places: str, number: float, step: int) -> None:
    if places:
        title = f"{EVALUATIONS[stream]} left out structures whose predictions are not finite: {number:.0f}"
        bus.alert(title, places, step=step)
        logger.warning("iteration %d: %s: %s", step, title, places)
