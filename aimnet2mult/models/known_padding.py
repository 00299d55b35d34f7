"""Whether a batch is padded, found out on the CPU before it is copied to a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

__all__ = ["is_padded", "knowing_padding"]

_is_padded: ContextVar[bool | None] = ContextVar("is_padded", default=None)


@contextmanager
def knowing_padding(numbers: Tensor) -> Iterator[None]:
    """Let models compute a batch with these atomic numbers, (B, N), 0 for padding, or parts of it, in the context.

    Numbers that are not on the CPU are not read.
    """
    token = _is_padded.set(bool((numbers == 0).any()) if numbers.device.type == "cpu" else None)
    try:
        yield
    finally:
        _is_padded.reset(token)


def is_padded() -> bool | None:
    """Return whether the batch of the context may have padding; None if that is not known."""
    return _is_padded.get()
