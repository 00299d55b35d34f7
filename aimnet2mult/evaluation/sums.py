"""Error sums by group, and the largest errors."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.groupings import Grouping
from aimnet2mult.metrics.structure_errors import StructureErrors
from aimnet2mult.quantities import Label
from aimnet2mult.train.element_sums import SumsByGroup, Values
from aimnet2mult.train.observation import EvaluatedBatch

__all__ = ["GroupSums", "LargestErrors"]


class GroupSums:
    """The error sums of a grouping; see `SumsByGroup` for the arguments."""

    def __init__(
        self, labels: Sequence[Label], grouping: Grouping, device: torch.device, communicator: Communicator
    ) -> None:
        self._codes = grouping.codes
        self._device = device
        self._sums = SumsByGroup(labels, len(grouping.groups), device, communicator)

    def add(self, batch: EvaluatedBatch) -> None:
        """Add the errors of this rank's share of a batch."""
        if len(batch.own):
            codes = torch.from_numpy(self._codes[batch.own_array("origin")])
            self._sums.update(batch, batch.true, codes.to(self._device))

    def values(self) -> list[Values]:
        """Return the metrics of each group, summed over all ranks, which must all call this; waits for the device."""
        return self._sums.snapshot()()


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
