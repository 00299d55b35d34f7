"""Record which structures an evaluation skips, and where they come from."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from aimnet.data import SizeGroupedDataset
from numpy.typing import NDArray
from torch import Tensor

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
        dataset: SizeGroupedDataset,
        sampler: MixedFidelitySampler,
        *,
        locate: Callable[[NDArray[np.int64]], list[str]],
        device: torch.device,
        communicator: Communicator,
    ) -> None:
        self._dataset = dataset
        self._locate = locate
        self._batches = [batch for (batch,) in sampler]
        self._communicator = communicator
        shares = [np.array_split(rows, communicator.world_size) for _, rows in self._batches]
        sizes = [len(part) for parts in shares for part in parts]
        starts = [0, *accumulate(sizes)]
        own = slice(communicator.rank, None, communicator.world_size)
        self._shares = [slice(start, start + size) for start, size in zip(starts[:-1][own], sizes[own], strict=True)]
        self._flags = torch.zeros(starts[-1], dtype=torch.uint8, device=device)
        self._reported: set[int] = set()

    def record(self, batch: int, finite: Tensor) -> None:
        """Set the flags of a batch; an evaluation records each batch once.

        Args:
            batch: number of the batch, counted from 0.
            finite: which structures of this rank's share are finite; booleans of shape (B,).
        """
        # A rank without structures evaluates one that belongs to another rank; its own share is empty.
        self._flags[self._shares[batch]].copy_(finite.logical_not())

    def snapshot(self) -> Snapshot:
        """Start copying the flags, summed over all ranks, to the CPU without waiting for it."""
        flags = self._flags.clone()
        self._communicator.all_reduce_sum(flags)
        return Snapshot(flags)

    def describe_new(self, flags: NDArray[Any]) -> str:
        """Return the places of the flagged structures that no earlier call has described; "" if there are none."""
        new = [number for number in np.flatnonzero(flags).tolist() if number not in self._reported]
        self._reported.update(new)
        origins = np.concatenate([self._dataset[group]["origin"][rows] for group, rows in self._batches])
        places = self._locate(origins[new[:MAX_NAMED]])
        more = len(new) - len(places)
        return "; ".join(places) + (f"; and {more} more" if more else "")
