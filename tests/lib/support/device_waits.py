"""Emulate a GPU without values on torch's meta device, where everything that would wait for a GPU is an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class DeviceWait(AssertionError):
    """A copy from the memory of the CPU for which a GPU would be waited for."""


class _RejectBlockingCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_to_copy" and kwargs.get("device") == META:
            _check(args[0], is_async=bool(kwargs.get("non_blocking")))
        if name == "copy_" and args[0].device == META:
            _check(args[1], is_async=bool([*args[2:], kwargs.get("non_blocking")][0]))
        return func(*args, **kwargs)


def _check(source: torch.Tensor, *, is_async: bool) -> None:
    if source.device != META and not is_async:
        raise DeviceWait(f"a copy of shape {tuple(source.shape)} from the CPU")


@contextmanager
def no_device_waits() -> Iterator[None]:
    """Raise an error in the block if a value of a tensor on `META` is read, or if a copy to it would wait."""
    # Torch itself raises the errors for values.
    with _RejectBlockingCopies():  # type: ignore[no-untyped-call]
        yield


@contextmanager
def every_flag_is_true() -> Iterator[None]:
    """Let every tensor be true in the block, such as the flag of the first step, which is read."""
    with mock.patch.object(torch.Tensor, "__bool__", return_value=True):
        yield
