"""The pass over the data that produces predictions."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.train.engine import LossFunction, build_validator
from aimnet2mult.train.loaders import Loader
from aimnet2mult.train.observation import EvaluatedBatch, ObservedSums, Observer

__all__ = ["evaluate_part"]


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
    observed = ObservedSums(sums, dataset, sampler, communicator)
    observed.begin([*observers, _Progress(progress)])
    build_validator(model, loss_fn, observed, device=device).run(loader)


class _Progress:
    """Observer that passes on the number of structures of each batch."""

    def __init__(self, report: Callable[[int], object]) -> None:
        self._report = report

    def add(self, batch: EvaluatedBatch) -> None:
        self._report(len(batch.rows))
