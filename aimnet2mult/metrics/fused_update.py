"""Error sums of a batch in one or two launches of Warp kernels."""

import ctypes
import functools
from typing import Any

import torch
import warp as wp
from torch import Tensor

from aimnet2mult.metrics.batch import Batch
from aimnet2mult.metrics.batch_table import BatchTable
from aimnet2mult.metrics.kernel_types import MAX_LABELS, Labels, Sizes, Table
from aimnet2mult.metrics.kernels import BLOCKS, LANES, add_structures, finish, update_serially
from aimnet2mult.metrics.layout import Layout

__all__ = ["FusedUpdate", "describe"]


class FusedUpdate:
    """Adds batches to error sums like `TorchUpdate`, with the kernels in `kernels`.

    They are compiled at construction and launched with addresses: nothing is copied or allocated, and no tensor is
    kept. On the CPU, the kernel runs in the calling thread and adds in a fixed order. On CUDA, the kernels run on the
    current stream of torch, so that memory of the batch is not reused before they have read it; nothing waits for
    them.

    Args:
        sums: the slots BATCH, WINDOW and EPOCH, float64 of shape (3, cells).
        layout: layout of a slot, with up to `MAX_LABELS` labels.
        skipped_steps: what a step that is not applied adds to the number of skipped steps.

    Raises:
        ValueError: there are more labels.
        Exception: a kernel cannot be compiled or loaded.
    """

    def __init__(self, sums: Tensor, layout: Layout, *, skipped_steps: int) -> None:
        if len(layout.labels) > MAX_LABELS:
            raise ValueError(f"there are {len(layout.labels)} labels; expected up to {MAX_LABELS}")
        self._device = sums.device
        self._table = BatchTable(layout, sums.get_device())
        self._fidelities = layout.fidelities
        # The last cell counts fidelities out of range.
        self._added = torch.zeros(layout.cells + 1, dtype=torch.float64, device=sums.device)
        self._launches = self._record(wp.from_torch(sums), *describe(layout, skipped_steps=skipped_steps))
        self._tables = [ctypes.addressof(launch.params[1]) for launch in self._launches]
        self._invalid = self._added[-1:].numpy() if sums.is_cpu else None
        self._stream: tuple[int, Any] = (-1, None)

    def add(self, batch: Batch) -> bool:
        """Add a batch, and return whether the kernels can do this.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
            IndexError: a fidelity is out of range, on the CPU; on CUDA, all sums become NaN.
        """
        packed = self._table.pack(batch)
        if packed is None:
            return False
        self._launch(packed[0])
        if self._invalid is not None and self._invalid[0]:
            raise IndexError(f"the fidelities are {batch.fidelity.tolist()}; expected 0 to {self._fidelities - 1}")
        return True

    def find_finite(self, batch: Batch) -> Tensor | None:
        """Return which structures have finite predictions, (B,), or None if the kernels cannot do this."""
        finite = torch.empty(len(batch.numbers), dtype=torch.bool, device=self._device)
        packed = self._table.pack_finite(batch, finite)
        if packed is None:
            return None
        self._launch(packed, only_first=True)
        return finite

    def _record(self, sums: Any, labels: Labels, sizes: Sizes) -> list[Any]:
        """Compile the kernels and return their launches."""
        inputs = [Table(), labels, sizes, sums, wp.from_torch(self._added)]
        record = functools.partial(wp.launch, inputs=inputs, device=sums.device, record_cmd=True)
        if self._device.type == "cpu":
            return [record(update_serially, dim=1)]
        return [
            record(add_structures, dim=(BLOCKS, LANES), block_dim=LANES),
            record(finish, dim=sums.shape[1]),
        ]

    def _launch(self, table: bytes, *, only_first: bool = False) -> None:
        if self._device.type == "cpu":
            ctypes.memmove(self._tables[0], table, len(table))
            self._launches[0].launch()
            return
        stream = self._current_stream()
        self._added[:-1].zero_()
        for launch, address in zip(self._launches[: 1 if only_first else None], self._tables, strict=False):
            ctypes.memmove(address, table, len(table))
            launch.launch(stream)

    def _current_stream(self) -> Any:
        """Return the current stream of torch as a stream of Warp."""
        current = torch.cuda.current_stream(self._device)
        if self._stream[0] != current.cuda_stream:
            self._stream = current.cuda_stream, wp.stream_from_torch(current)  # type: ignore[no-untyped-call] # warp
        return self._stream[1]


def describe(layout: Layout, *, skipped_steps: int) -> tuple[Labels, Sizes]:
    """Return what the kernels must know about a layout."""
    labels = Labels()
    for index, label in enumerate(layout.labels):
        labels[index] = (label.components, int(label.per_atom))
    sizes = Sizes()
    sizes.labels = len(layout.labels)
    sizes.fidelities = layout.fidelities
    sizes.stride = layout.stride
    sizes.quantities = len(layout.quantities)
    sizes.terms = layout.terms
    sizes.energy = layout.names.index("energy") if layout.has_energy else -1
    sizes.skipped = skipped_steps
    return labels, sizes
