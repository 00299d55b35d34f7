"""The collective operations of training, in the trivial version for a single process. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Communicator"]

T = TypeVar("T")


class Communicator:
    """Collective operations of a single process, which needs no communication.

    `process_group.ProcessGroupCommunicator` implements them for several ranks. There, all ranks must call the same
    methods in the same order.
    """

    rank = 0
    world_size = 1

    def set_device(self, device: torch.device) -> None:
        """Set the device of the model and of the tensors to reduce.

        Raises:
            ConfigError: the ranks have devices of different types.
        """

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages the gradients of the model's parameters over all ranks.

        All ranks start with rank 0's parameters. The same parameters must receive gradients in every iteration.
        """
        return model

    def without_averaging(self, wrapped: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002 - see subclass
        """Return a context for passes through a module from `wrap` whose gradients need no averaging.

        They are averaged in the next pass outside the context, together with its own.
        """
        return nullcontext()

    def all_reduce_sum(self, tensor: Tensor) -> None:
        """Replace a tensor, which has the same shape on all ranks, with its sum over the ranks, in place."""

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the elementwise maximum over the ranks. The values stay on the CPU and never wait for a device."""
        return list(values)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        return value

    def run_on_all(self, function: Callable[[], T]) -> T:
        """Run a function on every rank and return its result; if it fails on any rank, raise on all of them.

        The function itself must not communicate.

        Raises:
            RankLost: the function failed on another rank. Its own exception is raised unchanged.
        """
        return function()
