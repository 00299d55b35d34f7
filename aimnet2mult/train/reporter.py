"""What of the training is published when: the one file that joins the engine and the bus."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch.optim import Optimizer

from aimnet2mult.metrics.declarations import STREAMS
from aimnet2mult.metrics.error_sums import ErrorSums, Slot, Snapshot
from aimnet2mult.metrics.statistics import statistics
from aimnet2mult.train.engine import epoch_length, total_iterations
from telemetry import Alert, Divergence

__all__ = ["Alert", "Bus", "Reporter"]

PERIODIC = ("train", "train_window")

Values = dict[str, float]


class Bus(Protocol):
    """What training needs of `telemetry.MetricBus`."""

    alerts: tuple[Alert, ...]
    diverged: Divergence | None
    last_healthy_step: int

    def due(self, stream: str, step: int) -> bool: ...
    def publish(self, stream: str, step: int, values: Callable[[], Values]) -> None: ...
    def publish_group(
        self, streams: Sequence[str], step: int, values: Callable[[], dict[str, Values]], *, final: bool = False
    ) -> None: ...
    def flush(self) -> bool: ...


class Reporter:
    """Publishes the statistics of training and validation, each at the global iteration.

    At a due iteration ``train`` and ``train_window`` travel together, and a new window begins. The last
    iteration has a point of its own, which leaves the window as it is: a run that is resumed for more epochs
    then has the windows of one that never ended. Copies to the host are awaited by the bus's thread.

    Where there are several ranks each has a reporter, as they add up together what is published; all but one
    have a bus that takes nothing.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        train_sums: ErrorSums,
        val_sums: ErrorSums,
        labels: Sequence[str],
        fidelity_names: Sequence[str],
        optimizer: Optimizer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.latest: Mapping[str, float] = {}
        """The newest values by full name, in source units; replaced as a whole, by the bus's thread."""
        self._bus = bus
        self._train_sums = train_sums
        self._val_sums = val_sums
        self._labels = tuple(labels)
        self._fidelity_names = tuple(fidelity_names)
        self._optimizer = optimizer
        self._clock = clock
        self._since = (0, 0.0)

    def attach(self, trainer: Engine) -> None:
        """Report on an engine that `build_trainer` made."""
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)

    def is_due(self, engine: Engine) -> bool:
        """Say whether the engine's iteration has a point in ``train``, by cadence or as the last."""
        step = engine.state.iteration
        return self._bus.due("train", step) or step == total_iterations(engine)

    def publish_validation(self, step: int, epoch: int) -> Snapshot:
        """Publish what the validation sums hold as the validation after iteration step, and return it."""
        sums = self._val_sums.snapshot()
        self._bus.publish("val", step, lambda: self._values("val", sums.wait()[Slot.EPOCH], epoch=epoch))
        return sums

    def _start(self, engine: Engine) -> None:
        self._since = (engine.state.iteration, self._clock())

    def _start_epoch(self, engine: Engine) -> None:
        # An epoch that a resume goes on with keeps its sums.
        if engine.state.iteration % epoch_length(engine) == 0:
            self._train_sums.reset(Slot.EPOCH)

    def _complete_iteration(self, engine: Engine) -> None:
        if not self.is_due(engine):
            return
        step, (since, began), now = engine.state.iteration, self._since, self._clock()
        beside = {
            "lr": float(self._optimizer.param_groups[0]["lr"]),
            "it_per_s": (step - since) / max(now - began, 1e-9),
            "epoch": engine.state.epoch,
        }
        sums, norm = self._train_sums.snapshot(), Snapshot(engine.state.grad_norm.double())  # type: ignore[attr-defined]

        def values() -> dict[str, Values]:
            slots = sums.wait()
            return {
                "train": self._values("train", slots[Slot.BATCH], grad_norm=norm.wait().item(), **beside),
                "train_window": self._values("train_window", slots[Slot.WINDOW]),
            }

        final = not self._bus.due("train", step)
        if not final:
            self._train_sums.reset(Slot.WINDOW)
            self._since = (step, now)
        # Last of all: torch lets the bus's thread run meanwhile, and would wait for its turn again.
        self._bus.publish_group(PERIODIC, step, values, final=final)

    def _complete_epoch(self, engine: Engine) -> None:
        sums, epoch = self._train_sums.snapshot(), engine.state.epoch
        self._bus.publish(
            "train_epoch",
            engine.state.iteration,
            lambda: self._values("train_epoch", sums.wait()[Slot.EPOCH], epoch=epoch),
        )

    def _values(self, stream: str, slot: NDArray[np.float64], **beside: float) -> Values:
        """Compute a stream's values, and keep them as the latest."""
        values = statistics(slot, self._labels, self._fidelity_names, STREAMS[stream]) | beside
        self.latest = {**self.latest, **{f"{stream}/{name}": value for name, value in values.items()}}
        return values
