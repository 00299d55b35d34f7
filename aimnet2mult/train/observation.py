"""Observers of the batches of an evaluation, which see their predictions and labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimnet2mult.data.dataset import DataSet, Group
from aimnet2mult.data.rank_share import share_of
from aimnet2mult.data.sampler import Batch, MixedFidelitySampler
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.quantities import Label

__all__ = ["EvaluatedBatch", "ObservedSums", "Observer"]


@dataclass(frozen=True, kw_only=True)
class EvaluatedBatch:
    """A batch, of which this rank has evaluated a share; tensors are those of the share, on the device."""

    pred: Mapping[str, Tensor]
    true: Mapping[str, Tensor]
    numbers: Tensor
    finite: Tensor
    """Which structures have finite predictions, (b,)."""
    group: Group
    """The size group."""
    rows: npt.NDArray[np.int64]
    """Rows of the whole batch in the group, (B,)."""
    share: slice
    """This rank's share of ``rows``; if it is empty, the tensors have one structure of another rank, unlabeled."""

    @property
    def own(self) -> npt.NDArray[np.int64]:
        """Rows of this rank's share, (b,) or none."""
        return self.rows[self.share]

    def own_array(self, key: str) -> npt.NDArray[Any]:
        """Return an array of this rank's share."""
        return self.group.read(self.own, [key])[key]

    def known(self) -> dict[str, Tensor]:
        """Return the labels, with NaN for structures without finite predictions; masks are unchanged."""
        return {
            key: torch.where(self.finite.view(-1, *[1] * (value.ndim - 1)), value, torch.nan)
            if value.is_floating_point()
            else value
            for key, value in self.true.items()
        }


class Observer(Protocol):
    """Something that is told every batch."""

    def add(self, batch: EvaluatedBatch) -> None:
        """Take note of a batch; called on every rank, in the same order."""
        ...


class ObservedSums:
    """Error sums that show each batch of a pass to observers.

    Args:
        sums: the error sums.
        dataset: the data set.
        sampler: sampler of the whole batches.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(
        self, sums: ErrorSums, dataset: DataSet, sampler: MixedFidelitySampler, communicator: Communicator
    ) -> None:
        self._sums = sums
        self._dataset = dataset
        self._sampler = sampler
        self._communicator = communicator
        self._observers: Sequence[Observer] = ()
        self._batches: Iterator[tuple[Batch]] = iter(())
        self._finite = torch.empty(0)

    def begin(self, observers: Sequence[Observer] = ()) -> None:
        """Begin a pass with these observers."""
        self._observers = observers
        self._batches = iter(self._sampler)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels that can occur."""
        return self._sums.labels

    def find_finite(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Return which structures have finite predictions; see `ErrorSums.find_finite`."""
        self._finite = self._sums.find_finite(pred, true, numbers)
        return self._finite

    def update(
        self,
        pred: Mapping[str, Tensor],
        true: Mapping[str, Tensor],
        numbers: Tensor,
        fidelity: Tensor,
        loss: Mapping[str, Tensor] | None = None,
        *,
        applied: Tensor | None = None,
    ) -> None:
        """Add the errors of a batch, and show it to the observers; see `ErrorSums.update`."""
        self._sums.update(pred, true, numbers, fidelity, loss, applied=applied)
        if not self._observers:
            return
        ((size, rows),) = next(self._batches)
        share = share_of(len(rows), self._communicator.rank, self._communicator.world_size)
        group = self._dataset[size]
        batch = EvaluatedBatch(
            pred=pred, true=true, numbers=numbers, finite=self._finite, group=group, rows=rows, share=share
        )
        for observer in self._observers:
            observer.add(batch)

    def batch_rmse(self) -> dict[str, float]:
        """Return the RMSE of each label over the last batch; see `ErrorSums.batch_rmse`."""
        return self._sums.batch_rmse()
