"""Forbid reading values of tensors on the CPU, which would make training wait for a GPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READERS = (
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "unique",
    "_unique2",
    "unique_dim",
    "allclose",
    "repeat_interleave",
)
METHODS = ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__")


class HostReadError(AssertionError):
    """The values of a tensor are needed on the CPU."""


class _ForbidReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        # The number of elements selected by a boolean index is only known after a read.
        if name in READERS or (name.startswith(("index", "_index")) and _has_boolean(args[1])):
            raise HostReadError(name)
        if name == "_to_copy" and kwargs.get("device") == torch.device("cpu"):
            raise HostReadError(name)
        return func(*args, **kwargs)


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Raise HostReadError for every host read of a tensor in the block; other threads may read."""
    with ExitStack() as stack:
        for name in METHODS:
            stack.enter_context(mock.patch.object(torch.Tensor, name, _reject(name)))
        stack.enter_context(_ForbidReads())  # type: ignore[no-untyped-call]
        yield


def _reject(name: str) -> Callable[..., Any]:
    original, thread = getattr(torch.Tensor, name), threading.current_thread()

    def reject(*args: object, **kwargs: object) -> Any:
        if threading.current_thread() is thread:
            raise HostReadError(name)
        return original(*args, **kwargs)

    return reject


def _has_boolean(indices: object) -> bool:
    items = indices if isinstance(indices, list | tuple) else [indices]
    return any(isinstance(item, torch.Tensor) and item.dtype in (torch.bool, torch.uint8) for item in items)
