"""The table that tells the kernels of the error sums where the arrays of a batch are."""

import struct
from collections.abc import Mapping

import torch
from torch import Tensor

from aimnet2mult.metrics.batch import Batch
from aimnet2mult.metrics.kernel_types import DTYPES, FIRST_LABEL
from aimnet2mult.metrics.layout import Layout
from aimnet2mult.metrics.losses import sums_and_counts
from aimnet2mult.metrics.masks import expand_mask, find_labeled, mask_name, match_shape
from aimnet2mult.quantities import Label

__all__ = ["BatchTable"]

Row = tuple[int | None, ...]
"""Rows of a `Table`. None, which cannot be packed, stands for an array that the kernels cannot read."""

ABSENT: Row = (0,) * 5
UNREADABLE: Row = (None,)

_CODES = {getattr(torch, name): code for code, name in enumerate(DTYPES)}
_INDEX_TYPES = {torch.int64, torch.int32}


class BatchTable:
    """Writes a `kernel_types.Table`, without reading from the device.

    Args:
        layout: layout of a slot.
        device: index of the CUDA device, or -1 for the CPU.
    """

    def __init__(self, layout: Layout, device: int) -> None:
        self._device = device
        self._terms = (2, layout.terms - 1)
        self._labels = [self._constants(label) for label in layout.labels]
        self._pack = struct.Struct(f"{5 * (FIRST_LABEL + 3 * len(layout.labels))}q").pack

    @staticmethod
    def _constants(label: Label) -> tuple[Label, str, str, bool, tuple[int, ...], Row]:
        """Return a label, its key, that of its mask, whether it is per atom, its last axis, and the absent strides."""
        components = (label.components,) if label.components > 1 else ()
        axes = 1 + label.per_atom + len(components)
        return label, label.name, mask_name(label.name), label.per_atom, components, ABSENT[2 + axes :]

    def pack(self, batch: Batch) -> tuple[bytes, Tensor | None] | None:
        """Return the table of a batch, and a tensor that must live until the kernels have read it.

        Returns:
            None if the kernels cannot read an array.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
        """
        pred, true, numbers, fidelity, loss, applied = batch
        labels = self._label_rows(pred, true, numbers)
        labeled = None if loss is None or sums_and_counts(loss) is not None else find_labeled(true)
        losses = ABSENT * 3 if loss is None else self._loss_rows(loss, labeled, numbers)
        index = self._row(fidelity) if fidelity.dtype in _INDEX_TYPES else UNREADABLE
        flag = ABSENT if applied is None else self._flag_row(applied)
        head = (*numbers.shape, 0, 0, 0, *self._row(numbers), 0, *index, 0, 0)
        try:
            return self._pack(*head, *losses, *flag, *ABSENT, *labels), labeled
        except struct.error:
            return None

    def pack_finite(
        self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor, finite: Tensor
    ) -> bytes | None:
        """Return the table for finding the finite structures, ``finite``, (B,); see `pack`."""
        labels = self._label_rows(pred, true, numbers)
        head = (*numbers.shape, 0, 0, 0, *self._row(numbers), 0, *ABSENT * 5, *self._row(finite), 0, 0)
        try:
            return self._pack(*head, *labels)
        except struct.error:
            return None

    def _row(self, array: Tensor) -> Row:
        """Return address, code and strides of an array."""
        # The sign of a view of a complex tensor may be pending.
        if array.get_device() != self._device or array.is_neg():
            return UNREADABLE
        # The address of a tensor without memory of its own, such as one of a subclass, is 0.
        return array.data_ptr() or None, _CODES.get(array.dtype), *array.stride()

    def _label_rows(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> list[int | None]:
        """Return the rows of all labels."""
        # This is the largest part of an update, so the rows of arrays are written out.
        device, code = self._device, _CODES.get
        by_structure, by_atom = numbers.shape[:1], numbers.shape
        values: list[int | None] = []
        for label, name, mask, per_atom, components, pad in self._labels:
            labeled = true.get(name)
            if labeled is None:
                values += ABSENT * 3
                continue
            predicted = pred.get(name)
            if predicted is None:
                raise ValueError(f"the batch has labels {name!r}, but the model does not predict them")
            shape = (by_atom if per_atom else by_structure) + components
            if predicted.shape != shape:
                predicted = match_shape(predicted, shape, f"the prediction of {name!r}")
            if labeled.shape != shape:
                labeled = match_shape(labeled, shape, f"the label of {name!r}")
            if predicted.get_device() != device or labeled.get_device() != device:
                values += UNREADABLE
            # As in `_row`.
            if predicted.is_neg() or labeled.is_neg():
                values += UNREADABLE
            flags = true.get(mask)
            values += (
                *(predicted.data_ptr() or None, code(predicted.dtype), *predicted.stride(), *pad),
                *(labeled.data_ptr() or None, code(labeled.dtype), *labeled.stride(), *pad),
                *(ABSENT if flags is None else self._mask_row(flags, label, by_atom)),
            )
        return values

    def _mask_row(self, mask: Tensor, label: Label, by_atom: torch.Size) -> Row:
        shape = mask.shape
        row = self._row(mask)
        if shape == by_atom[:1] or shape == (by_atom[0], 1):
            return *row[:3], 0, 0
        if label.per_atom and (shape == by_atom or shape == (*by_atom, 1)):  # noqa: PLR1714 - a tuple of both costs time
            return *row[:4], 0
        structures, atoms = by_atom
        expand_mask(mask, structures, atoms, f"the mask of {label.name!r}", per_atom=label.per_atom)
        return UNREADABLE

    def _loss_rows(self, loss: Mapping[str, Tensor], labeled: Tensor | None, numbers: Tensor) -> Row:
        """Return the rows of the sums and counts, of the total, and of the structures that it covers."""
        terms = sums_and_counts(loss)
        if terms is not None:
            if terms.shape != self._terms:
                raise ValueError(
                    f"the sums and counts of the loss have shape {tuple(terms.shape)}; expected {self._terms}"
                )
            return *self._row(terms), 0, *ABSENT * 2
        total = loss["loss"]
        if total.ndim:
            raise ValueError(f"loss has shape {tuple(total.shape)}; expected a scalar")
        if labeled is None or labeled.shape != numbers.shape[:1]:
            return UNREADABLE
        return *ABSENT, *self._row(total), 0, 0, 0, *self._row(labeled), 0, 0

    def _flag_row(self, flag: Tensor) -> Row:
        if flag.ndim or flag.dtype is not torch.bool:
            return UNREADABLE
        return *self._row(flag), 0, 0, 0
