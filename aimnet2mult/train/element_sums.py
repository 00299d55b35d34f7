"""Error sums by group of structures, and by element."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import ErrorSums, Slot, Snapshot
from aimnet2mult.metrics.masks import expand_mask, mask_name
from aimnet2mult.metrics.statistics import Selection, statistics
from aimnet2mult.quantities import Label
from aimnet2mult.train.observation import EvaluatedBatch

__all__ = ["ElementSums", "SumsByGroup", "Values"]

Values = dict[str, float]
"""Metrics by name, in source units."""

KINDS = Selection(kinds=("rmse", "mae", "r2"), energy_per_atom=True, per_fidelity=True)
"""The metrics of a group, which takes the place of a fidelity."""
PER_ATOM = Selection(kinds=("mae", "rmse", "r2"), per_fidelity=True)


class SumsByGroup:
    """Error sums of several groups: of the labels, and of the energies per atom, in float64.

    Args:
        labels: the labels.
        groups: number of groups.
        device: device of the batches.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(self, labels: Sequence[Label], groups: int, device: torch.device, communicator: Communicator) -> None:
        self._groups = groups
        self._errors = ErrorSums(labels, groups, device, communicator=communicator)
        energy = [label for label in labels if label.name == "energy"]
        self._energies = ErrorSums(energy, groups, device, communicator=communicator) if energy else None

    def update(self, batch: EvaluatedBatch, true: Mapping[str, Tensor], codes: Tensor) -> None:
        """Add the errors of this rank's share of a batch; ``codes`` (b,) are the groups of its structures."""
        self._errors.update(batch.pred, true, batch.numbers, codes)
        if self._energies is not None and "energy" in true:
            atoms = batch.numbers.ne(0).sum(1).double()
            pred, labels = batch.pred["energy"], true["energy"]
            energies = {"energy": labels.double().view(-1) / atoms}
            if (mask := mask_name("energy")) in true:
                energies[mask] = true[mask]
            self._energies.update({"energy": pred.double().view(-1) / atoms}, energies, batch.numbers, codes)

    def reset(self) -> None:
        """Start again from zero."""
        for sums in (self._errors, self._energies):
            if sums is not None:
                sums.reset(Slot.EPOCH)

    def snapshot(self) -> Callable[[], list[Values]]:
        """Start copying the sums over all ranks, which must all call this.

        Returns:
            A function that waits for the device, and returns the metrics of each group.
        """
        labels, errors = self._errors.labels, self._errors.snapshot()
        energies = None if self._energies is None else (self._energies.labels, self._energies.snapshot())

        def values() -> list[Values]:
            found = _statistics(errors, labels, self._groups, KINDS)
            per_atom = [] if energies is None else _statistics(energies[1], energies[0], self._groups, PER_ATOM)
            for metrics, of_energy in zip(found, per_atom, strict=False):
                if "E_mae" in of_energy:
                    metrics["E_atom_mae"] = of_energy["E_mae"]
            return found

        return values


def _statistics(sums: Snapshot, labels: Sequence[Label], groups: int, selection: Selection) -> list[Values]:
    slot = sums.wait()[Slot.EPOCH]
    names = [str(index) for index in range(groups)]
    found: list[Values] = [{} for _ in names]
    for name, value in statistics(slot, labels, names, selection).items():
        index, slash, metric = name.rpartition("/")
        if slash:
            found[int(index)][metric] = value
        elif groups == 1 and name != "loss":
            found[0][name] = value
    return found


class ElementSums:
    """The error sums of each element: of its atoms, and for labels of whole structures, of those that contain it.

    Args:
        labels: the labels.
        elements: atomic numbers.
        device: device of the batches.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(
        self, labels: Sequence[Label], elements: Sequence[int], device: torch.device, communicator: Communicator
    ) -> None:
        self._labels = labels
        self._elements = elements
        self._sums = SumsByGroup(labels, len(elements), device, communicator)

    def add(self, batch: EvaluatedBatch) -> None:
        """Add the errors of this rank's share of a batch."""
        if not len(batch.own):
            return
        # Looking at the arrays of the data set, rather than at the tensors, avoids waiting for the device.
        present = set(np.unique(batch.own_array("numbers")).tolist())
        known = batch.known()
        for index, element in enumerate(self._elements):
            if element in present:
                codes = torch.full_like(batch.numbers[:, 0], index, dtype=torch.int64)
                self._sums.update(batch, known | self._masks(known, batch.numbers, element), codes)

    def reset(self) -> None:
        """Start again from zero."""
        self._sums.reset()

    def snapshot(self) -> Callable[[], list[Values]]:
        """Start copying the sums, and return a function that returns the metrics of each element.

        See `SumsByGroup.snapshot`.
        """
        return self._sums.snapshot()

    def _masks(self, true: Mapping[str, Tensor], numbers: Tensor, element: int) -> dict[str, Tensor]:
        """Return the masks of the labels with those of an element, in place of the atoms of all elements."""
        structures, atoms = numbers.shape
        is_element = numbers.eq(element)
        masks = {}
        for label in self._labels:
            key = mask_name(label.name)
            chosen = is_element if label.per_atom else is_element.any(1, keepdim=True)
            if key in true:
                what = f"the mask of {label.name!r}"
                given = expand_mask(true[key], structures, atoms, what, per_atom=label.per_atom)
                chosen = chosen & given
            masks[key] = chosen
        return masks
