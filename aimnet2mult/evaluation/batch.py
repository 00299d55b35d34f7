"""A batch with its predictions, and the pass over the data that produces them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from aimnet2mult.data.dataset import DataSet, Group
from aimnet2mult.data.rank_share import share_of
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.quantities import Label
from aimnet2mult.train.engine import LossFunction, build_validator
from aimnet2mult.train.loaders import Loader

__all__ = ["EvaluatedBatch", "Observer", "evaluate_part"]


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


class _ObservedSums:
    """Error sums that pass each batch on."""

    def __init__(self, sums: ErrorSums, observe: Callable[[Mapping[str, Tensor], Any, Tensor, Tensor], None]) -> None:
        self._sums = sums
        self._observe = observe
        self._finite = torch.empty(0)

    @property
    def labels(self) -> tuple[Label, ...]:
        return self._sums.labels

    def find_finite(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
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
        self._sums.update(pred, true, numbers, fidelity, loss, applied=applied)
        self._observe(pred, true, numbers, self._finite)

    def batch_rmse(self) -> dict[str, float]:
        return self._sums.batch_rmse()


def evaluate_part(
    dataset: DataSet,
    sampler: MixedFidelitySampler,
    loader: Loader,
    *,
    model: nn.Module,
    loss_fn: LossFunction,
    sums: ErrorSums,
    observers: Sequence[Observer],
    device: torch.device,
    communicator: Communicator,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Pass over a data set as a validation during training does, and show each batch to the observers.

    Args:
        dataset: The data.
        sampler: Sampler of the whole batches.
        loader: Loader of this rank's share of them.
        model: The model.
        loss_fn: The loss function.
        sums: Error sums to add to.
        observers: Observers of the batches.
        device: Device of the model.
        communicator: Communicator of the ranks that share each batch.
        progress: Called with the number of structures of each batch.
    """
    batches = iter(sampler)

    def observe(pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor, finite: Tensor) -> None:
        ((size, rows),) = next(batches)
        share = share_of(len(rows), communicator.rank, communicator.world_size)
        batch = EvaluatedBatch(
            pred=pred, true=true, numbers=numbers, finite=finite, group=dataset[size], rows=rows, share=share
        )
        for observer in observers:
            observer.add(batch)
        progress(len(rows))

    validator: Engine = build_validator(model, loss_fn, _ObservedSums(sums, observe), device=device)
    validator.run(loader)
