"""Whether a batch is padded, found out on the CPU before it is copied to a device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["is_padded", "knowing_padding"]

_is_padded: ContextVar[bool | None] = ContextVar("is_padded", default=None)
_NOTHING = nullcontext()


def knowing_padding(numbers: Tensor, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which a model computes a batch, or parts of it, on a device.

    Nothing is read on behalf of a model on the CPU, or from atomic numbers that are not on the CPU.

    Args:
        numbers: atomic numbers, (B, N), 0 for padding, before they are copied to the device.
        device: device of the model.
    """
    if device.type == "cpu" or numbers.device.type != "cpu":
        return _NOTHING
    return _knowing(bool((numbers == 0).any()))


def is_padded() -> bool | None:
    """Return whether the batch of the context may have padding; None if that is not known."""
    return _is_padded.get()


@contextmanager
def _knowing(value: bool) -> Iterator[None]:
    token = _is_padded.set(value)
    try:
        yield
    finally:
        _is_padded.reset(token)
