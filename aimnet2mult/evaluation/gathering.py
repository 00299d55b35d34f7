"""The predictions of whole batches on the CPU, gathered from all ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from aimnet2mult.data.dataset import INPUTS
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.quantities import Label
from aimnet2mult.train.observation import EvaluatedBatch

__all__ = ["GatheredBatch", "Gathering", "Receiver"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class GatheredBatch:
    """A batch with its predictions, as NumPy arrays; energies are less the reference energies, in source units."""

    arrays: Mapping[str, Array]
    """Inputs and labels, including ``origin`` and ``fidelity``."""
    predictions: Mapping[str, Array]
    """Predictions by label, float64, in the shapes of the labels."""


class Receiver(Protocol):
    """Something that is given the predictions of every batch."""

    def receive(self, batch: GatheredBatch) -> None:
        """Take the predictions of a batch; called on rank 0 only."""
        ...


class Gathering:
    """An observer that passes the predictions of all ranks to receivers on rank 0.

    Each rank fills in its share of a batch, and the sum over the ranks is the whole.

    Args:
        labels: labels that the model predicts.
        receivers: receivers of the predictions.
        device: device of the batches.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        receivers: Sequence[Receiver],
        device: torch.device,
        communicator: Communicator,
    ) -> None:
        self._labels = labels
        self._receivers = receivers
        self._device = device
        self._communicator = communicator

    @torch.inference_mode()
    def add(self, batch: EvaluatedBatch) -> None:
        """Gather the predictions of a batch."""
        shapes = [label.shape(len(batch.rows), batch.numbers.shape[1]) for label in self._labels]
        widths = [int(np.prod(shape[1:])) for shape in shapes]
        whole = torch.zeros((len(batch.rows), sum(widths)), dtype=torch.float64, device=self._device)
        if len(batch.own):
            parts = [batch.pred[label.name].reshape(len(batch.own), -1).double() for label in self._labels]
            whole[batch.share] = torch.cat(parts, 1)
        self._communicator.all_reduce_sum(whole)
        if self._communicator.rank:
            return
        columns = np.split(whole.cpu().numpy(), np.cumsum(widths)[:-1], axis=1)
        names = [label.name for label in self._labels]
        gathered = GatheredBatch(
            arrays=batch.group.read(batch.rows, [*INPUTS, *names, "origin"]),
            predictions={name: part.reshape(shape) for name, part, shape in zip(names, columns, shapes, strict=True)},
        )
        for receiver in self._receivers:
            receiver.receive(gathered)
