"""Error sums by group, and the largest errors."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.batch import EvaluatedBatch
from aimnet2mult.evaluation.groupings import Grouping
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.masks import expand_mask, mask_name
from aimnet2mult.metrics.statistics import Selection, statistics
from aimnet2mult.metrics.structure_errors import StructureErrors
from aimnet2mult.quantities import Label

__all__ = ["ElementSums", "GroupSums", "LargestErrors", "Values"]

Values = dict[str, float]
"""Metrics by name, in source units."""

KINDS = Selection(kinds=("rmse", "mae", "r2"), energy_per_atom=True, per_fidelity=True)
"""The metrics of a group, which takes the place of a fidelity."""
PER_ATOM = Selection(kinds=("mae", "rmse", "r2"), per_fidelity=True)


class _Sums:
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

    def values(self) -> list[Values]:
        """Return the metrics of each group, summed over all ranks, which must all call this; waits for the device."""
        found = _statistics(self._errors, self._groups, KINDS)
        if self._energies is not None:
            per_atom = _statistics(self._energies, self._groups, PER_ATOM)
            for values, energies in zip(found, per_atom, strict=True):
                if "E_mae" in energies:
                    values["E_atom_mae"] = energies["E_mae"]
        return found


def _statistics(sums: ErrorSums, groups: int, selection: Selection) -> list[Values]:
    slot = sums.snapshot().wait()[Slot.EPOCH]
    names = [str(index) for index in range(groups)]
    found: list[Values] = [{} for _ in names]
    for name, value in statistics(slot, sums.labels, names, selection).items():
        index, slash, metric = name.rpartition("/")
        if slash:
            found[int(index)][metric] = value
        elif groups == 1 and name != "loss":
            found[0][name] = value
    return found


class GroupSums:
    """The error sums of a grouping; see `_Sums` for the arguments."""

    def __init__(
        self, labels: Sequence[Label], grouping: Grouping, device: torch.device, communicator: Communicator
    ) -> None:
        self._codes = grouping.codes
        self._device = device
        self._sums = _Sums(labels, len(grouping.groups), device, communicator)

    def add(self, batch: EvaluatedBatch) -> None:
        """Add the errors of this rank's share of a batch."""
        if len(batch.own):
            codes = torch.from_numpy(self._codes[batch.own_array("origin")])
            self._sums.update(batch, batch.true, codes.to(self._device))

    def values(self) -> list[Values]:
        """Return the metrics of each group; see `_Sums.values`."""
        return self._sums.values()


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
        self._sums = _Sums(labels, len(elements), device, communicator)

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

    def values(self) -> list[Values]:
        """Return the metrics of each element; see `_Sums.values`."""
        return self._sums.values()

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


class LargestErrors:
    """The largest absolute error of each label in each structure, and for each element, in source units.

    Energies per atom are an additional label, ``E_atom``. Takes 8 bytes per label and structure.

    Args:
        labels: the labels.
        elements: atomic numbers.
        total: number of structures, by origin.
        device: device of the batches.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        elements: Sequence[int],
        total: int,
        device: torch.device,
        communicator: Communicator,
    ) -> None:
        self._errors_of = StructureErrors(labels, device)
        self._elements = elements
        self._device = device
        self._communicator = communicator
        self.names = [label.abbr for label in self._errors_of.labels]
        """The rows of the results: abbreviations of the labels, and ``E_atom`` if energy is one."""
        if "E" in self.names:
            self.names.append("E_atom")
        self._structures = torch.zeros((len(self.names), total), dtype=torch.float64, device=device)
        by_rank = (communicator.world_size, len(self.names), len(elements))
        self._by_rank = torch.zeros(by_rank, dtype=torch.float64, device=device)
        self._own = self._by_rank[communicator.rank].fill_(-torch.inf)

    @torch.inference_mode()
    def add(self, batch: EvaluatedBatch) -> None:
        """Compare the errors of this rank's share of a batch with the largest ones so far."""
        if not len(batch.own):
            return
        errors = self._errors(batch)
        origins = torch.from_numpy(batch.own_array("origin")).to(self._device)
        largest = torch.where(batch.finite, errors.amax(-1), torch.nan)
        self._structures[:, origins] = largest
        for index, element in enumerate(self._elements):
            chosen = batch.numbers.eq(element) & batch.finite.unsqueeze(-1)
            of_element = torch.where(chosen, errors, -torch.inf).amax((1, 2))
            torch.maximum(self._own[:, index], of_element, out=self._own[:, index])

    def collect(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the errors of all ranks, which must all call this: (names, structures) and (names, elements).

        They are NaN for structures without finite predictions, -inf where there is no label, and 0 for structures that
        have not been evaluated.
        """
        for tensor in (self._structures, self._by_rank):
            self._communicator.all_reduce_sum(tensor)
        return self._structures.cpu().numpy(), self._by_rank.amax(0).cpu().numpy()

    def _errors(self, batch: EvaluatedBatch) -> Tensor:
        """Return the largest absolute error of each label among the components of each atom, (names, b, N)."""
        channels = self._errors_of.absolute_errors(batch.pred, batch.true, batch.numbers)
        parts = channels.split([label.components for label in self._errors_of.labels])  # type: ignore[no-untyped-call] # torch
        rows = [part.amax(0) for part in parts]
        if "E" in self.names:
            rows.append(rows[self.names.index("E")] / batch.numbers.ne(0).sum(1, keepdim=True))
        return torch.stack(rows)
