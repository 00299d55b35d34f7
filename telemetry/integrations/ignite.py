"""Telemetry for any trainer that is an ignite ``Engine``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from torch.optim import Optimizer

from telemetry import MetricBus, NullBus
from telemetry.integrations.pending_values import Held, Means, Number, checked, is_number

__all__ = ["Attachment", "attach", "output"]

Values = Callable[[Engine], Mapping[str, Number]]
"""Gives numbers by name, of the engine's newest iteration."""


def output(engine: Engine) -> Mapping[str, Number]:
    """Give what the engine's step returned: a mapping as it is, one number as ``loss``.

    Raises:
        TypeError: it returned anything else.
    """
    given: Any = engine.state.output
    if isinstance(given, Mapping):
        return given
    if is_number(given):
        return {"loss": given}
    msg = (
        f"the engine's output is of type {type(given).__name__}, and neither a number nor numbers by name; "
        "give attach(values=…), a callable of the engine that returns numbers by name"
    )
    raise TypeError(msg)


def attach(
    trainer: Engine,
    bus: MetricBus | NullBus,
    *,
    validator: Engine | None = None,
    values: Values = output,
    window: bool = False,
    optimizer: Optimizer | None = None,
) -> Attachment:
    """Publish an ignite trainer's metrics, each at the trainer's iteration.

    | stream       | when                                        | what                                         |
    |--------------|---------------------------------------------|----------------------------------------------|
    | train        | at the bus's due iterations and at the last | ``values``; ``lr`` if an optimizer is given  |
    | train_window | likewise, with ``window=True``              | the mean of ``values`` since the last point  |
    | train_epoch  | when the trainer completes an epoch         | ``trainer.state.metrics``                    |
    | val          | when the validator completes a run          | ``validator.state.metrics``                  |

    No tensor is read in the training thread: it is copied, and the bus's thread awaits the copy. What goes wrong with
    a value does not end the training: the bus counts the points that are lost by it, and says why.

    Of several ranks all attach: the first with the bus of ``open_run``, the others with ``NullBus(every)``. They ask
    for ``values`` at the same iterations, so that it may reduce over ranks. Opening and closing the run is the
    caller's. A resumed run is opened with the iteration that the trainer goes on after: ``open_run(resume_step=…)``.

    Args:
        trainer: other handlers and metrics may be attached before or after.
        bus: what is published to.
        validator: an engine that is run before, in or after the trainer's run.
        values: asked in the training thread, after the iterations that are due and no others.
        window: ask for ``values`` after every iteration, and add them up in float64 on their device.
        optimizer: ``lr`` is the learning rate of its first group of parameters.

    Numbers are Python's, NumPy's and tensors of one element. Whatever else is in ``state.metrics`` is left out; of
    ``values`` it is an error. Metrics of several numbers by name count singly, as in ignite.

    Raises:
        TypeError: an engine is not one, or the bus is not one.
        ValueError: the trainer is attached to this bus already, as when a notebook's cell is run twice.
    """
    for engine in (trainer, *(() if validator is None else (validator,))):
        if not isinstance(engine, Engine):
            msg = (
                f"attach(trainer, bus, validator=…) was given a {type(engine).__name__} where an ignite Engine belongs"
            )
            raise TypeError(msg)
    if not hasattr(bus, "due"):
        msg = f"attach(trainer, bus, validator=…) was given a {type(bus).__name__} as the bus; open_run(…) gives one"
        raise TypeError(msg)
    buses = _attached.setdefault(trainer, WeakSet())
    if bus in buses:
        msg = "the trainer is attached to this bus already; to attach it again, detach() what attach returned before"
        raise ValueError(msg)
    buses.add(bus)
    return Attachment(trainer, bus, validator=validator, values=values, window=window, optimizer=optimizer)


_attached: WeakKeyDictionary[Engine, WeakSet[MetricBus | NullBus]] = WeakKeyDictionary()


class Attachment:
    """The handlers that publish a trainer's metrics; made by ``attach``."""

    def __init__(
        self,
        trainer: Engine,
        bus: MetricBus | NullBus,
        *,
        validator: Engine | None,
        values: Values,
        window: bool,
        optimizer: Optimizer | None,
    ) -> None:
        self._trainer = trainer
        self._bus = bus
        self._values = values
        self._window = _Window() if window else None
        self._optimizer = optimizer
        self._streams = ("train", "train_window") if window else ("train",)
        self._newest = trainer.state.iteration
        self._epoch = self._follow_epochs()
        self._handles = [
            trainer.add_event_handler(Events.STARTED, self._start),
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration),
            trainer.add_event_handler(Events.TERMINATE, self._complete),
            trainer.add_event_handler(Events.COMPLETED, self._complete),
        ]
        if validator is not None:
            self._handles.append(validator.add_event_handler(Events.COMPLETED, self._complete_validation))

    def detach(self) -> None:
        """Publish nothing more of the trainer and its validator. The bus stays open."""
        for handle in (*self._handles, self._epoch):
            handle.remove()
        _attached[self._trainer].discard(self._bus)

    def _follow_epochs(self) -> RemovableEventHandle:
        return self._trainer.add_event_handler(Events.EPOCH_COMPLETED, self._publish_metrics, "train_epoch")

    def _start(self, engine: Engine) -> None:
        self._newest = engine.state.iteration
        if self._window is not None:
            self._window = _Window()
        # ignite computes metrics in handlers of the same event, and calls all in the order in which they were added.
        self._epoch.remove()
        self._epoch = self._follow_epochs()

    def _complete_iteration(self, engine: Engine) -> None:
        due = self._bus.due("train", engine.state.iteration)
        if due or _is_last(engine):
            self._publish(engine, final=not due)
        elif self._window is not None:
            self._window.add(engine, self._values)

    def _complete(self, engine: Engine) -> None:
        # Not all ends are foreseen at their iteration: the data run out, or a handler terminates the run.
        if engine.state.iteration != self._newest:
            self._publish(engine, final=True)

    def _publish(self, engine: Engine, *, final: bool) -> None:
        self._newest = step = engine.state.iteration
        window, self._window = self._window, None if self._window is None else _Window()
        try:
            values = self._values(engine)
            groups = {"train": Held({**values, **self._rate()})}
            if window is not None:
                groups["train_window"] = window.held(engine, values)
        except Exception as error:  # noqa: BLE001 - `values` is the host's; the bus counts what is lost by it
            self._bus.publish_group(self._streams, step, _raise(error), final=final)
        else:
            self._bus.publish_group(self._streams, step, lambda: {s: g.wait() for s, g in groups.items()}, final=final)

    def _rate(self) -> dict[str, Number]:
        return {} if self._optimizer is None else {"lr": self._optimizer.param_groups[0]["lr"]}

    def _complete_validation(self, validator: Engine) -> None:
        # One that was terminated still has the metrics of the one before.
        if not validator.should_terminate:
            self._publish_metrics(validator, "val")

    def _publish_metrics(self, engine: Engine, stream: str) -> None:
        metrics = _numbers(engine.state.metrics)
        if metrics:
            self._bus.publish(stream, self._trainer.state.iteration, Held(metrics).wait)


class _Window:
    """The iterations since the last point."""

    def __init__(self) -> None:
        self._means = Means()
        self._newest = -1
        self._error: Exception | None = None

    def add(self, engine: Engine, values: Values) -> None:
        """Add an iteration; if ``values`` fails, so does ``held``, where there is a point to be lost by it."""
        self._newest = engine.state.iteration
        try:
            self._means.add(values(engine))
        except Exception as error:  # noqa: BLE001 - as in Attachment
            self._error = self._error or error

    def held(self, engine: Engine, values: Mapping[str, Number]) -> Held:
        """Give the means, with the newest iteration's values."""
        # It has been added already if it became the last one only afterwards.
        if engine.state.iteration != self._newest:
            self._means.add(values)
        if self._error is not None:
            raise self._error
        return self._means.held()


def _is_last(engine: Engine) -> bool:
    length, epochs = engine.state.epoch_length, engine.state.max_epochs
    return length is not None and epochs is not None and engine.state.iteration == length * epochs


def _numbers(metrics: Mapping[Any, Any]) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            # ignite keeps the mapping that a metric gave, and beside it each of its values.
            found = _numbers(value) | found
        else:
            with contextlib.suppress(TypeError, OverflowError):
                found[str(name)] = checked(str(name), value)
    return found


def _raise(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail
