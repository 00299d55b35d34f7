"""Record which structures an evaluation skips, and where they come from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.rank_share import share_of
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import Snapshot

__all__ = ["SkippedStructures"]

MAX_NAMED = 10
"""Maximum number of structures named in a message."""


class SkippedStructures:
    """The structures without finite predictions, as a flag on the device for each structure of a data set.

    Nothing is read from the device until a snapshot is evaluated, and the number of ranks does not matter: each sets
    the flags of its own share of every batch, and a snapshot is the total.

    Args:
        dataset: the data set.
        sampler: sampler of the batches, which always have the same order.
        locate: function that returns where structures come from, given their ``origin``.
        device: device of the model.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(
        self,
        dataset: DataSet,
        sampler: MixedFidelitySampler,
        *,
        locate: Callable[[NDArray[np.int64]], list[str]],
        device: torch.device,
        communicator: Communicator,
    ) -> None:
        self._dataset = dataset
        self._locate = locate
        self._sampler = sampler
        self._communicator = communicator
        self._ends = np.cumsum(sampler.batch_lengths(), dtype=np.int64)
        """The number of structures in all batches up to each one."""
        self._flags = torch.zeros(int(self._ends[-1]), dtype=torch.uint8, device=device)
        self._reported: set[int] = set()

    def record(self, batch: int, finite: Tensor) -> None:
        """Set the flags of a batch; an evaluation records each batch once.

        Args:
            batch: number of the batch, counted from 0.
            finite: which structures of this rank's share are finite; booleans of shape (B,).
        """
        # A rank without structures evaluates one that belongs to another rank; its own share is empty.
        self._flags[self._share(batch)].copy_(finite.logical_not())

    def snapshot(self) -> Snapshot:
        """Start copying the flags, summed over all ranks, to the CPU without waiting for it."""
        flags = self._flags.clone()
        self._communicator.all_reduce_sum(flags)
        return Snapshot(flags)

    def describe_new(self, flags: NDArray[Any]) -> str:
        """Return the places of the flagged structures that no earlier call has described; "" if there are none."""
        new = [number for number in np.flatnonzero(flags).tolist() if number not in self._reported]
        self._reported.update(new)
        origins = np.array([self._origin(number) for number in new[:MAX_NAMED]], np.int64)
        places = self._locate(origins)
        more = len(new) - len(places)
        return "; ".join(places) + (f"; and {more} more" if more else "")

    def _share(self, batch: int) -> slice:
        """Return this rank's share of the structures of a batch, as `numpy.array_split` divides them."""
        start = int(self._ends[batch - 1]) if batch else 0
        share = share_of(int(self._ends[batch]) - start, self._communicator.rank, self._communicator.world_size)
        return slice(start + share.start, start + share.stop)

    def _origin(self, number: int) -> np.int64:
        batch = int(np.searchsorted(self._ends, number, side="right"))
        group, rows = self._sampler.batch_at(batch)
        row = rows[number - int(self._ends[batch]) + len(rows)]
        origin: np.int64 = self._dataset[group].read(np.array([row]), ["origin"])["origin"][0]
        return origin
