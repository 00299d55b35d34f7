"""Optional methods of a loss function, which training calls if the loss has them."""

from typing import Protocol, runtime_checkable

from aimnet2mult.distributed.communicator import Communicator

__all__ = ["TakesIteration", "UsesRanks"]


@runtime_checkable
class UsesRanks(Protocol):
    """A loss whose value for a whole batch is not the mean of the values of the ranks, such as `MTLoss`."""

    def use_ranks(self, ranks: Communicator) -> None:
        """Share each batch with other ranks."""
        ...


@runtime_checkable
class TakesIteration(Protocol):
    """A loss that depends on the iteration, such as `MTLoss`."""

    def set_iteration(self, iteration: int) -> None:
        """Compute the loss of a training iteration, counted from 1, from now on."""
        ...
