"""Numbers that may still be on a device: held for the host, and added up where they are."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Number = float | Tensor
"""A tensor of one element counts as a number; it may be on any device."""


class Held:
    """Numbers on their way to the host. The buffers are its own: what the trainer does next leaves them alone.

    Raises:
        TypeError: a value is not one number.
    """

    def __init__(self, values: Mapping[str, Number]) -> None:
        numbers = {name: checked(name, value) for name, value in values.items()}
        devices = {number.device for number in numbers.values() if isinstance(number, Tensor) and number.is_cuda}
        self._values = {name: _copied(number) for name, number in numbers.items()}
        self._done = [_mark(device) for device in devices]

    def wait(self) -> dict[str, float]:
        """Wait for the copies and give the numbers; from another thread than the one that trains."""
        for event in self._done:
            event.synchronize()
        return {name: float(value) for name, value in self._values.items()}


class Means:
    """Sums of numbers, each in float64 where the number is, over as many additions as had it."""

    def __init__(self) -> None:
        self._sums: dict[str, Number] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Number]) -> None:
        """Add numbers by name; raises TypeError for what is not one number."""
        for name, value in values.items():
            number = checked(name, value)
            number = number.double() if isinstance(number, Tensor) else number
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def held(self) -> Held:
        """Give the means."""
        return Held({name: total / self._counts[name] for name, total in self._sums.items()})


def checked(name: str, value: Any) -> Number:
    """Give a number as a float or a tensor without dimensions and graph; raises TypeError for anything else."""
    if is_number(value):
        return value.detach().reshape(()) if isinstance(value, Tensor) else float(value)
    what = f"a tensor of {value.numel()} elements" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
    msg = f"{name!r} is {what}; a metric is one number: give attach(values=…), a callable that returns such"
    raise TypeError(msg)


def is_number(value: object) -> bool:
    """Say whether it is one number: Python's, NumPy's, or a dense, real tensor of one element."""
    if not isinstance(value, Tensor):
        return isinstance(value, Real)
    return value.numel() == 1 and value.layout == torch.strided and not value.is_complex()


def _copied(number: Number) -> Number:
    if not isinstance(number, Tensor):
        return number
    if not number.is_cuda:
        return number.clone()
    # PyTorch keeps pinned buffers, and lends one again only when the copy into it is over.
    return torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)


def _mark(device: torch.device) -> torch.cuda.Event:
    """Give an event that comes after all that is queued on a device now."""
    # A blocking event lets the waiting thread sleep, where it would else keep a core busy.
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
