"""Metric values that may still be on a device: copy them to the CPU asynchronously and average them on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from telemetry.recording.numbers import as_float, is_number

Number = float | Tensor
"""A Python number or a tensor with one element, on any device."""


class PendingValues:
    """Values being copied to the CPU into private buffers, so that the trainer may overwrite its tensors.

    Create an instance in the training thread, which does not wait; call ``wait`` in another thread.

    Raises:
        TypeError: a value is not a single number.
    """

    def __init__(self, values: Mapping[str, Number]) -> None:
        numbers = {name: as_number(name, value) for name, value in values.items()}
        devices = {number.device for number in numbers.values() if isinstance(number, Tensor) and number.is_cuda}
        self._values = {name: _start_copy(number) for name, number in numbers.items()}
        self._copied = [_record_event(device) for device in devices]

    def wait(self) -> dict[str, float]:
        """Wait for the copies and return the values."""
        for event in self._copied:
            # In a new thread, the current device is the first one, on which a rank of another GPU must not take memory.
            with torch.cuda.device(event.device):
                event.synchronize()
        return {name: float(value) for name, value in self._values.items()}


class RunningMeans:
    """Means of named values, summed in float64 on the device of each value."""

    def __init__(self) -> None:
        self._sums: dict[str, Number] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Number]) -> None:
        """Add values; a name need not occur in every call.

        Raises:
            TypeError: a value is not a single number.
        """
        for name, value in values.items():
            number = as_number(name, value)
            number = number.double() if isinstance(number, Tensor) else number
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def pending(self) -> PendingValues:
        """Return the means."""
        return PendingValues({name: total / self._counts[name] for name, total in self._sums.items()})


def as_number(name: str, value: Any) -> Number:
    """Return the value as a float or as a detached tensor of shape ().

    Raises:
        TypeError: the value is not a single number.
    """
    if is_number(value):
        return value.detach().reshape(()) if isinstance(value, Tensor) else as_float(value)
    kind = f"a tensor with {value.numel()} elements" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
    msg = f"{name!r} is {kind}, but a metric is a single number; pass attach(values=…), a callable that returns numbers"
    raise TypeError(msg)


def _start_copy(number: Number) -> Number:
    if not isinstance(number, Tensor):
        return number
    if not number.is_cuda:
        return number.clone()
    # PyTorch caches pinned buffers and reuses one only after the copy into it has finished.
    return torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)


def _record_event(device: torch.device) -> torch.cuda.Event:
    """Return an event that follows all work currently queued on the device."""
    # A blocking event lets the waiting thread sleep instead of spinning on a core.
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
