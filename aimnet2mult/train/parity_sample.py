"""A sample of the labels and predictions of an evaluation, for parity plots."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.rank_share import share_of
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import Snapshot
from aimnet2mult.metrics.masks import expand_mask, mask_name
from aimnet2mult.quantities import Label
from aimnet2mult.train.observation import EvaluatedBatch
from aimnet2mult.train.parity_plot import Points

__all__ = ["MAX_POINTS", "MAX_STRUCTURES", "ParitySample"]

MAX_STRUCTURES = 1000
"""Maximum number of structures of each fidelity."""
MAX_VALUES = 1 << 20
"""Maximum number of values of each fidelity, of all labels together; with large structures, there are fewer of them."""
MAX_POINTS = 5000
"""Maximum number of points of each label and fidelity."""

PointsByLabel = dict[str, list[Points]]
"""The points of each fidelity, by name of the label, in source units."""


class ParitySample:
    """Labels and predictions of a random sample of the structures, which are the same in every pass.

    Nothing waits for the device, and the number of ranks does not matter: each copies its own share of every batch to
    its place in a tensor, and a snapshot is the sum.

    Args:
        dataset: the data set.
        sampler: sampler of the batches, which always have the same order.
        labels: the labels.
        device: device of the batches.
        communicator: communicator of the ranks that share each batch.
        limit: maximum number of structures of each fidelity.
    """

    def __init__(
        self,
        dataset: DataSet,
        sampler: MixedFidelitySampler,
        labels: Sequence[Label],
        *,
        device: torch.device,
        communicator: Communicator,
        limit: int = MAX_STRUCTURES,
    ) -> None:
        self._labels = labels
        widest = max(_width(labels, group.atoms) for group in dataset.groups)
        self.limit = max(1, min(limit, MAX_VALUES // widest))
        """Maximum number of structures of each fidelity."""
        chosen, self._fidelities = _choose(dataset, sampler, self.limit)
        sizes = [dataset[sampler.batch_at(batch)[0]].atoms for batch in range(len(sampler))]
        self._regions = [(len(positions), size) for positions, size in zip(chosen, sizes, strict=True)]
        bounds = np.cumsum([0, *(number * _width(labels, size) for number, size in self._regions)]).tolist()
        self._slices = [slice(*bound) for bound in pairwise(bounds)]
        self._values = torch.zeros((2, bounds[-1]), dtype=torch.float64, device=device)
        self._communicator = communicator
        # Indices on the device, so that nothing is copied to it during a pass.
        lengths = sampler.batch_lengths().tolist()
        shares = [share_of(length, communicator.rank, communicator.world_size) for length in lengths]
        own = [[p - s.start for p in found if s.start <= p < s.stop] for found, s in zip(chosen, shares, strict=True)]
        self._before = [sum(p < s.start for p in found) for found, s in zip(chosen, shares, strict=True)]
        rows = torch.tensor([position for found in own for position in found], dtype=torch.int64, device=device)
        self._own: Sequence[Tensor] = rows.split([len(found) for found in own])  # type: ignore[no-untyped-call] # torch
        self._batch = 0

    def reset(self) -> None:
        """Begin a pass."""
        self._batch = 0

    @torch.no_grad()
    def add(self, batch: EvaluatedBatch) -> None:
        """Copy the structures of this rank's share of a batch that belong to the sample."""
        index, self._batch = self._batch, self._batch + 1
        rows, (number, atoms) = self._own[index], self._regions[index]
        if not len(rows):
            return
        width = _width(self._labels, atoms)
        place = self._values[:, self._slices[index]].view(2, number, width)
        before = self._before[index]
        place[:, before : before + len(rows)] = torch.stack((self._true(batch, rows), self._pred(batch, rows)))

    def snapshot(self) -> Callable[[], PointsByLabel]:
        """Start copying the sample over all ranks, which must all call this.

        Returns:
            A function that waits for the device, and returns the points: those that count in the errors, up to
            ``MAX_POINTS`` of each label and fidelity.
        """
        values = self._values.clone()
        self._communicator.all_reduce_sum(values)
        copied = Snapshot(values)
        return lambda: self._points(copied.wait())

    def _true(self, batch: EvaluatedBatch, rows: Tensor) -> Tensor:
        """Return the labels of some structures, NaN where they do not count, (rows, values)."""
        numbers, parts = batch.numbers[rows], []
        structures, atoms = batch.numbers.shape
        for label in self._labels:
            shape = (len(rows), atoms if label.per_atom else 1, label.components)
            if label.name not in batch.true:
                parts.append(torch.full(shape, torch.nan, dtype=torch.float64, device=rows.device).flatten(1))
                continue
            counts = batch.finite[rows].view(-1, 1)
            if label.per_atom:
                counts = counts & numbers.ne(0)
            if (key := mask_name(label.name)) in batch.true:
                what = f"the mask of {label.name!r}"
                mask = expand_mask(batch.true[key], structures, atoms, what, per_atom=label.per_atom)
                counts = counts & mask[rows]
            true = batch.true[label.name][rows].double().reshape(shape)
            parts.append(torch.where(counts.unsqueeze(-1), true, torch.nan).flatten(1))
        return torch.cat(parts, 1)

    def _pred(self, batch: EvaluatedBatch, rows: Tensor) -> Tensor:
        """Return the predictions of some structures, (rows, values)."""
        return torch.cat([batch.pred[label.name][rows].double().reshape(len(rows), -1) for label in self._labels], 1)

    def _points(self, values: Points) -> PointsByLabel:
        parts: dict[str, list[list[Points]]] = {
            label.name: [[np.empty((2, 0))] for _ in range(1 + max(self._fidelities, default=0))]
            for label in self._labels
        }
        structure = 0
        for (number, atoms), place in zip(self._regions, self._slices, strict=True):
            widths = [_width([label], atoms) for label in self._labels]
            columns = np.split(values[:, place].reshape(2, number, -1), np.cumsum(widths)[:-1], axis=2)
            for row in range(number):
                fidelity = self._fidelities[structure + row]
                for label, column in zip(self._labels, columns, strict=True):
                    parts[label.name][fidelity].append(column[:, row])
            structure += number
        return {name: [_known(np.concatenate(found, axis=1)) for found in lists] for name, lists in parts.items()}


def _width(labels: Sequence[Label], atoms: int) -> int:
    """Return the number of values of a structure."""
    return sum(label.components * (atoms if label.per_atom else 1) for label in labels)


def _choose(dataset: DataSet, sampler: MixedFidelitySampler, limit: int) -> tuple[list[list[int]], list[int]]:
    """Return the positions of the chosen structures in each batch, and the fidelity of each chosen structure."""
    batches = [sampler.batch_at(index) for index in range(len(sampler))]
    fidelities = [dataset[group].read(rows, ["fidelity"])["fidelity"] for group, rows in batches]
    of_all = np.concatenate(fidelities)
    rng = np.random.default_rng(0)
    is_chosen = np.zeros(len(of_all), np.bool_)
    for fidelity in np.unique(of_all):
        members = np.flatnonzero(of_all == fidelity)
        is_chosen[rng.permutation(members)[:limit]] = True
    parts = np.split(is_chosen, np.cumsum([len(each) for each in fidelities])[:-1])
    return [np.flatnonzero(part).tolist() for part in parts], of_all[is_chosen].tolist()


def _known(points: Points) -> Points:
    """Return the points that are finite, up to the limit."""
    points = points[:, np.isfinite(points).all(0)]
    if points.shape[1] > MAX_POINTS:
        points = points[:, np.sort(np.random.default_rng(0).permutation(points.shape[1])[:MAX_POINTS])]
    return points
