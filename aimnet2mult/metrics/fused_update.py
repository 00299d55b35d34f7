"""Error sums of a batch in a single launch of a Warp kernel."""

import ctypes
import logging
import struct
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aimnet2mult.metrics.layout import Layout
from aimnet2mult.metrics.losses import sums_and_counts
from aimnet2mult.metrics.masks import expand_mask, find_labeled, mask_name, match_shape
from telemetry.errors import format_error

__all__ = ["FusedUpdate"]

logger = logging.getLogger(__name__)

Values = tuple[int | None, ...]
"""A row of `kernels.Table`. None stands for something that the kernel cannot read, so that packing fails."""

ABSENT: Values = (0, 0, 0, 0, 0)


class FusedUpdate:
    """Adds batches to error sums on the CPU like `TorchUpdate`, with one launch of `kernels.update_serially`.

    The kernel is compiled at construction, and launched with a table of addresses and strides, so that nothing is
    allocated and no tensor is kept. It runs in the calling thread and adds in a fixed order.

    Args:
        kernels: the module of the kernels.
        sums: see `TorchUpdate`.
        layout: see `TorchUpdate`.
        skipped_steps: see `TorchUpdate`.
    """

    def __init__(self, kernels: ModuleType, sums: Tensor, layout: Layout, *, skipped_steps: int) -> None:
        self._fidelities = layout.fidelities
        self._terms = (2, layout.terms - 1)
        self._labels = [
            (label, mask_name(label.name), (label.components,) if label.components > 1 else ())
            for label in layout.labels
        ]
        self._codes = {getattr(torch, name): code for code, name in enumerate(kernels.DTYPES)}
        self._index_types = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
        self._status = ctypes.c_int32()
        self._launch, table = kernels.record(sums, layout, skipped_steps, self._status)
        self._memory = memoryview(table).cast("B")
        self._pack = struct.Struct(f"{5 * (kernels.FIRST_LABEL + 3 * len(self._labels))}q").pack_into

    @classmethod
    def build(cls, sums: Tensor, layout: Layout, *, skipped_steps: int) -> "FusedUpdate | None":
        """Return the object, or None if the kernel cannot be used here; see the class for the arguments."""
        try:
            from aimnet2mult.metrics import kernels  # noqa: PLC0415 - may fail

            if sums.is_cuda or len(layout.labels) > kernels.MAX_LABELS:
                return None
            return cls(kernels, sums, layout, skipped_steps=skipped_steps)
        except Exception as error:  # noqa: BLE001 - whatever a compiler may raise
            _report(format_error(error))
            return None

    def add(
        self,
        pred: Mapping[str, Tensor],
        true: Mapping[str, Tensor],
        numbers: Tensor,
        fidelity: Tensor,
        loss: Mapping[str, Tensor] | None,
        applied: Tensor | None,
    ) -> bool:
        """Add a batch, and return whether the kernel can do this; see `ErrorSums.update` for the arguments.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
            IndexError: a fidelity is out of range.
        """
        labels = self._label_rows(pred, true, numbers)
        index = self._row(fidelity) if fidelity.dtype in self._index_types else (None,)
        flag = ABSENT if applied is None else self._flag_row(applied)
        # The tensor must live until the kernel has read it.
        labeled = None if loss is None or sums_and_counts(loss) is not None else find_labeled(true)
        terms = self._loss_rows(loss, labeled, fidelity.shape)
        values = (
            *(*numbers.shape, 0, 0, 0),
            *(*self._row(numbers), 0, *index, 0, 0),
            *terms,
            *(*flag, *ABSENT),
            *labels,
        )
        if not self._run(values):
            return False
        if self._status.value:
            raise IndexError(f"the fidelities are {fidelity.tolist()}; expected 0 to {self._fidelities - 1}")
        return True

    def find_finite(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> Tensor | None:
        """Return which structures have finite predictions, (B,), or None if the kernel cannot do this."""
        labels = self._label_rows(pred, true, numbers)
        finite = torch.empty(len(numbers), dtype=torch.bool)
        head = (*numbers.shape, 0, 0, 0, *self._row(numbers), 0, *ABSENT * 5, *self._row(finite), 0, 0)
        return finite if self._run((*head, *labels)) else None

    def _run(self, values: Sequence[int | None]) -> bool:
        try:
            self._pack(self._memory, 0, *values)
        except struct.error:
            return False
        self._launch.launch()
        return True

    def _row(self, array: Tensor) -> Values:
        """Return address, code and strides of an array."""
        if not array.is_cpu:
            return (None,)
        # The address of a tensor without memory, such as one of a subclass, is 0.
        return array.data_ptr() or None, self._codes.get(array.dtype), *array.stride()

    def _label_rows(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> list[int | None]:
        """Return the rows of all labels."""
        structures, atoms = numbers.shape
        values: list[int | None] = []
        for label, mask, components in self._labels:
            name = label.name
            labeled = true.get(name)
            if labeled is None:
                values += ABSENT * 3
                continue
            predicted = pred.get(name)
            if predicted is None:
                raise ValueError(f"the batch has labels {name!r}, but the model does not predict them")
            shape = (structures, atoms, *components) if label.per_atom else (structures, *components)
            if predicted.shape != shape:
                predicted = match_shape(predicted, shape, f"the prediction of {name!r}")
            if labeled.shape != shape:
                labeled = match_shape(labeled, shape, f"the label of {name!r}")
            pad = ABSENT[len(shape) + 2 :]
            # The sign of a view of a complex tensor may be pending.
            values += (None,) if predicted.is_neg() else self._row(predicted)
            values += pad
            values += self._row(labeled)
            values += pad
            values += self._mask_row(true[mask], label, structures, atoms) if mask in true else ABSENT
        return values

    def _mask_row(self, mask: Tensor, label: Any, structures: int, atoms: int) -> Values:
        shape = mask.shape
        address, code, *strides = self._row(mask)
        if shape in ((structures,), (structures, 1)):
            return address, code, *strides[:1], 0, 0
        if label.per_atom and shape in ((structures, atoms), (structures, atoms, 1)):
            return address, code, *strides[:2], 0
        expand_mask(mask, structures, atoms, f"the mask of {label.name!r}", per_atom=label.per_atom)
        return (None,)

    def _loss_rows(
        self, loss: Mapping[str, Tensor] | None, labeled: Tensor | None, structures: tuple[int, ...]
    ) -> Values:
        """Return the rows TERMS, TOTAL and LABELED."""
        if loss is None:
            return ABSENT * 3
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
        if labeled is None or labeled.shape != structures:
            return (None,)
        return *ABSENT, *self._row(total), 0, 0, 0, *self._row(labeled), 0, 0

    def _flag_row(self, applied: Tensor) -> Values:
        if applied.ndim or applied.dtype is not torch.bool:
            return (None,)
        return *self._row(applied), 0, 0, 0


def _report(problem: str) -> None:
    logger.warning("error sums are computed with torch operations, which is slower: no Warp kernel (%s)", problem)
