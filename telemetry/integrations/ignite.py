"""Telemetry for trainers that are ignite engines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from torch.optim import Optimizer

from telemetry import MetricBus, NullBus, is_number
from telemetry.integrations.pending_values import Number, PendingValues, RunningMeans, as_number

__all__ = ["Attachment", "attach", "output"]

MetricValues = Callable[[Engine], Mapping[str, Number]]
"""A callable that returns the metric values of the engine's current iteration, keyed by name."""


def output(engine: Engine) -> Mapping[str, Number]:
    """Return the output of the engine's step: a mapping unchanged, a single number as ``loss``.

    Raises:
        TypeError: the output is neither a mapping nor a single number.
    """
    result: Any = engine.state.output
    if isinstance(result, Mapping):
        return result
    if is_number(result):
        return {"loss": result}
    msg = (
        f"the engine's output has type {type(result).__name__}, but must be a number or a mapping of names to numbers; "
        "otherwise pass attach(values=…), a callable that takes the engine and returns such a mapping"
    )
    raise TypeError(msg)


def attach(
    trainer: Engine,
    bus: MetricBus | NullBus,
    *,
    validator: Engine | None = None,
    values: MetricValues = output,
    window: bool = False,
    optimizer: Optimizer | None = None,
) -> Attachment:
    """Publish the metrics of an ignite trainer, each at the trainer's iteration.

    | stream       | published                                   | values                                       |
    |--------------|---------------------------------------------|----------------------------------------------|
    | train        | at due iterations and at the last one       | ``values``; ``lr`` if an optimizer is given  |
    | train_window | likewise, with ``window=True``              | mean of ``values`` since the last point      |
    | train_epoch  | when the trainer completes an epoch         | ``trainer.state.metrics``                    |
    | val          | when the validator completes a run          | ``validator.state.metrics``                  |

    The training thread does not read tensors: it starts a copy, and the thread of the bus waits for it. An error in a
    value does not stop training: the bus counts the lost points and logs the reason.

    With several ranks, attach on all of them: on the first with the bus of ``open_run``, on the others with
    ``NullBus(every)``. All ranks call ``values`` at the same iterations, so it may reduce across ranks. The caller
    opens and closes the run. To resume a run, pass the trainer's current iteration: ``open_run(resume_step=…)``.

    Values are Python or NumPy numbers, or tensors with one element. Other objects are ignored in ``state.metrics`` but
    are errors in ``values``. As in ignite, a metric that is a mapping counts as several metrics.

    Args:
        trainer: the training engine; other handlers and metrics may be attached before or after.
        bus: the bus to publish to.
        validator: an engine that is run before, during or after training.
        values: called in the training thread, only after due iterations and the last one.
        window: whether to call ``values`` after every iteration and sum its results in float64 on their devices.
        optimizer: the optimizer whose first parameter group provides ``lr``.

    Raises:
        TypeError: ``trainer`` or ``validator`` is not an engine, or ``bus`` is not a bus.
        ValueError: the trainer is already attached to this bus, for example because a notebook cell was run twice.
    """
    for engine in (trainer, *(() if validator is None else (validator,))):
        if not isinstance(engine, Engine):
            msg = f"attach(trainer, bus, validator=…) requires ignite engines, not {type(engine).__name__}"
            raise TypeError(msg)
    if not hasattr(bus, "due"):
        msg = f"attach(trainer, bus) requires the bus returned by open_run(…), not {type(bus).__name__}"
        raise TypeError(msg)
    buses = _attached.setdefault(trainer, WeakSet())
    if bus in buses:
        msg = "the trainer is already attached to this bus; call detach() on the existing attachment first"
        raise ValueError(msg)
    buses.add(bus)
    return Attachment(trainer, bus, validator=validator, values=values, window=window, optimizer=optimizer)


_attached: WeakKeyDictionary[Engine, WeakSet[MetricBus | NullBus]] = WeakKeyDictionary()


class Attachment:
    """The handlers that publish the metrics of a trainer. Created by ``attach``."""

    def __init__(
        self,
        trainer: Engine,
        bus: MetricBus | NullBus,
        *,
        validator: Engine | None,
        values: MetricValues,
        window: bool,
        optimizer: Optimizer | None,
    ) -> None:
        self._trainer = trainer
        self._bus = bus
        self._values = values
        self._window = _Window() if window else None
        self._optimizer = optimizer
        self._streams = ("train", "train_window") if window else ("train",)
        self._last_published = trainer.state.iteration
        self._epoch_handle = self._add_epoch_handler()
        self._handles = [
            trainer.add_event_handler(Events.STARTED, self._start),
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration),
            trainer.add_event_handler(Events.TERMINATE, self._complete),
            trainer.add_event_handler(Events.COMPLETED, self._complete),
        ]
        if validator is not None:
            self._handles.append(validator.add_event_handler(Events.COMPLETED, self._complete_validation))

    def detach(self) -> None:
        """Stop publishing the metrics of the trainer and its validator. The bus stays open."""
        for handle in (*self._handles, self._epoch_handle):
            handle.remove()
        _attached[self._trainer].discard(self._bus)

    def _add_epoch_handler(self) -> RemovableEventHandle:
        return self._trainer.add_event_handler(Events.EPOCH_COMPLETED, self._publish_metrics, "train_epoch")

    def _start(self, engine: Engine) -> None:
        self._last_published = engine.state.iteration
        if self._window is not None:
            self._window = _Window()
        # ignite computes metrics in handlers of the same event and calls handlers in the order in which they were
        # added, so move this one to the end.
        self._epoch_handle.remove()
        self._epoch_handle = self._add_epoch_handler()

    def _complete_iteration(self, engine: Engine) -> None:
        due = self._bus.due("train", engine.state.iteration)
        if due or _is_last(engine):
            self._publish(engine, final=not due)
        elif self._window is not None:
            self._window.add(engine, self._values)

    def _complete(self, engine: Engine) -> None:
        # The last iteration is not always known in advance: the data may run out, or a handler may end the run.
        if engine.state.iteration != self._last_published:
            self._publish(engine, final=True)

    def _publish(self, engine: Engine, *, final: bool) -> None:
        self._last_published = step = engine.state.iteration
        window, self._window = self._window, None if self._window is None else _Window()
        try:
            values = self._values(engine)
            groups = {"train": PendingValues({**values, **self._learning_rate()})}
            if window is not None:
                groups["train_window"] = window.means(engine, values)
        except Exception as error:  # noqa: BLE001 - `values` is user code; the bus counts and logs lost points
            self._bus.publish_group(self._streams, step, _raising(error), final=final)
        else:
            self._bus.publish_group(self._streams, step, lambda: {s: g.wait() for s, g in groups.items()}, final=final)

    def _learning_rate(self) -> dict[str, Number]:
        return {} if self._optimizer is None else {"lr": self._optimizer.param_groups[0]["lr"]}

    def _complete_validation(self, validator: Engine) -> None:
        # A terminated validator still holds the metrics of its previous run.
        if not validator.should_terminate:
            self._publish_metrics(validator, "val")

    def _publish_metrics(self, engine: Engine, stream: str) -> None:
        metrics = _numbers(engine.state.metrics)
        if metrics:
            self._bus.publish(stream, self._trainer.state.iteration, PendingValues(metrics).wait)


class _Window:
    """The means of ``values`` over the iterations since the last point."""

    def __init__(self) -> None:
        self._means = RunningMeans()
        self._last_added = -1
        self._error: Exception | None = None

    def add(self, engine: Engine, values: MetricValues) -> None:
        """Add the current iteration. An error in ``values`` is raised later by ``means``, and the point is lost."""
        self._last_added = engine.state.iteration
        try:
            self._means.add(values(engine))
        except Exception as error:  # noqa: BLE001 - as in Attachment
            self._error = self._error or error

    def means(self, engine: Engine, values: Mapping[str, Number]) -> PendingValues:
        """Return the means, including ``values`` of the current iteration."""
        # If training ended unexpectedly, its last iteration has already been added like any other.
        if engine.state.iteration != self._last_added:
            self._means.add(values)
        if self._error is not None:
            raise self._error
        return self._means.pending()


def _is_last(engine: Engine) -> bool:
    length, epochs = engine.state.epoch_length, engine.state.max_epochs
    return length is not None and epochs is not None and engine.state.iteration == length * epochs


def _numbers(metrics: Mapping[Any, Any]) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            # ignite stores the mapping returned by a metric as well as each of its values.
            found = _numbers(value) | found
        else:
            with contextlib.suppress(TypeError, OverflowError):
                found[str(name)] = as_number(str(name), value)
    return found


def _raising(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail
