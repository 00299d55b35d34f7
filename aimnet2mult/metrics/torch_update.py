"""Error sums of a batch in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aimnet2mult.metrics.batch import Batch
from aimnet2mult.metrics.layout import QUANTITIES, Layout
from aimnet2mult.metrics.losses import LossCells
from aimnet2mult.metrics.structure_errors import SQUARE, StructureErrors, are_finite, skip_structures
from aimnet2mult.quantities import Label

__all__ = ["TorchUpdate"]


class TorchUpdate:
    """Adds batches to error sums with torch operations: the reference for `FusedUpdate`, and its fallback.

    Args:
        sums: the slots BATCH, WINDOW and EPOCH, float64 of shape (3, cells).
        layout: layout of a slot.
        skipped_steps: what a step that is not applied adds to the number of skipped steps.
    """

    def __init__(self, sums: Tensor, layout: Layout, *, skipped_steps: int) -> None:
        self._layout = layout
        self._errors_of = StructureErrors(layout.labels, sums.device, layout.quantities)
        self._skips_structures = layout.quantities == QUANTITIES
        self._batch, self._pooled = sums[0], sums[1:]
        self._errors = self._batch[: layout.errors]
        self._energy_per_atom = self._errors.view(layout.fidelities, layout.stride)[:, -1]
        self._loss = LossCells(self._batch, layout)
        self._cells = _first_cells(layout, self._errors_of.labels).to(sums.device)
        self._skipped_step = torch.zeros_like(self._batch)
        self._skipped_step[-1] = skipped_steps

    # Faster than no_grad, because views and versions are not tracked.
    @torch.inference_mode()
    def add(self, batch: Batch) -> None:
        """Add a batch.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
            IndexError: a fidelity is out of range; a RuntimeError in some versions of torch, and on CUDA.
        """
        pred, true, numbers, fidelity, loss, applied = batch
        sums, natom = self._errors_of.sums(pred, true, numbers)
        self._batch.zero_()
        kept = None
        if self._skips_structures:
            sums, kept = skip_structures(sums)
            self._batch[-1].copy_(kept.logical_not().sum())
        if loss is not None:
            self._loss.store(loss, true, kept)
        # An out-of-range fidelity addresses cells outside the tensor, which is an error, and never another fidelity's.
        cells = torch.add(self._cells, fidelity, alpha=self._layout.stride)
        self._errors.index_add_(0, cells.view(-1), sums.view(-1))
        if self._layout.has_energy:
            energy = self._errors_of.energy_channel
            self._energy_per_atom.index_add_(0, fidelity, sums[SQUARE, energy] / natom[energy].square())
        self._pooled.add_(self._batch if applied is None else torch.where(applied, self._batch, self._skipped_step))

    @torch.inference_mode()
    def find_finite(self, batch: Batch) -> Tensor:
        """Return which structures have finite predictions, (B,)."""
        sums, _ = self._errors_of.sums(batch.pred, batch.true, batch.numbers)
        return are_finite(sums)


def _first_cells(layout: Layout, labels: Sequence[Label]) -> Tensor:
    """Return the cell index of each sum of a structure of fidelity 0, (quantities, channels, 1).

    Args:
        layout: layout of a slot.
        labels: the labels in the order of their channels.
    """
    rows = [layout.labels.index(label) for label in labels for _ in range(label.components)]
    n_quantities = len(layout.quantities)
    first = torch.tensor(rows) * n_quantities
    return (first + torch.arange(n_quantities).unsqueeze(-1)).unsqueeze(-1)
