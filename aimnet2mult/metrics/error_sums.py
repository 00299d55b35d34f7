"""Sums of prediction errors, accumulated on the device without reading any values back."""

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.batch import Batch
from aimnet2mult.metrics.kernel_choice import build_fused_update
from aimnet2mult.metrics.layout import NO_TERMS, QUANTITIES, Layout, LossTerms
from aimnet2mult.metrics.torch_update import TorchUpdate
from aimnet2mult.quantities import Label

__all__ = ["ErrorSums", "Slot", "Snapshot"]


class Slot(IntEnum):
    """The batches covered by a row of sums: the last one, or all since the slot was reset."""

    BATCH = 0
    WINDOW = 1
    EPOCH = 2


class Snapshot:
    """A copy of all slots, transferred asynchronously to a CPU buffer that later updates do not change."""

    def __init__(self, sums: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if sums.is_cuda:
            # PyTorch caches pinned buffers and reuses one only after the copy into it has finished.
            self._buffer = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            self._buffer.copy_(sums, non_blocking=True)
            # With a blocking event, the waiting thread sleeps instead of spinning.
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch
            self._copied.record(torch.cuda.current_stream(sums.device))
        else:
            self._buffer = sums.clone()

    @property
    def done(self) -> bool:
        """Whether `wait` would return at once."""
        copied = self._copied
        if copied is not None and copied.query():  # type: ignore[no-untyped-call] # torch
            self._copied = None
        return self._copied is None

    def wait(self) -> NDArray[np.float64]:
        """Wait for the copy and return it: float64 of shape (slots, cells), rows as in `Slot`, cells as in `Layout`.

        On CUDA this blocks until the device has reached the copy, so do not call it from the training thread.
        """
        copied = self._copied
        if copied is not None and not self.done:
            # In a new thread, the current device is the first one, on which a rank of another GPU must not take memory.
            with torch.cuda.device(copied.device):
                copied.synchronize()
        return self._buffer.numpy()


class ErrorSums:
    """Sums of errors per label and fidelity over a batch, a window and an epoch, in float64.

    A component counts if its label is finite, its atom is real (atomic number not 0) and its mask, if any, allows it;
    the mask of ``forces`` is ``forces_mask`` among the labels, as in the loss. Components that do not count are
    excluded by selection and may hold any value. A counted error that is not finite affects only the sums of its own
    label and fidelity; with all of `QUANTITIES`, as in validation, its structure is left out and counted as skipped.

    Each rank sums its own share; `snapshot` and `state_dict`, which all ranks must call, return the total.

    The state is one tensor of fixed shape on the device. After construction, only `state_dict` and `batch_rmse` read
    from the device, and no update keeps a graph.

    A Warp kernel, compiled at construction, computes the sums, or torch where this is not possible. On the CPU, sums of
    the same batches are bit-identical; on CUDA, the last digits vary, because structures are added in any order.

    Args:
        labels: the labels that can occur.
        n_fidelities: number of fidelities.
        device: device of the sums.
        quantities: quantities to sum: all of `QUANTITIES`, or only squares and counts, which is faster.
        loss: the components of the loss.
        communicator: communicator of the ranks that share each batch; by default, a single process.
        kernel: whether to use the Warp kernel where possible; otherwise, torch computes the sums.

    Raises:
        ValueError: a label is repeated, or there is no label or no fidelity.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        n_fidelities: int,
        device: torch.device | str | None = None,
        quantities: tuple[str, ...] = QUANTITIES,
        *,
        loss: LossTerms = NO_TERMS,
        communicator: Communicator | None = None,
        kernel: bool = True,
    ) -> None:
        self._communicator = communicator or Communicator()
        self.layout = Layout(labels=tuple(labels), fidelities=n_fidelities, quantities=quantities, loss=loss)
        self._sums = torch.zeros((len(Slot), self.layout.cells), dtype=torch.float64, device=device)
        self._errors = self._sums[Slot.BATCH, : self.layout.errors]
        # Every rank skips the same steps, so only one counts them.
        skipped_steps = int(self._communicator.rank == 0)
        self._torch = TorchUpdate(self._sums, self.layout, skipped_steps=skipped_steps)
        self._kernel = None
        if kernel:
            self._kernel = build_fused_update(self._sums, self.layout, self._torch, skipped_steps=skipped_steps)
        if self._sums.is_cuda:
            # Allocating the first pinned buffer waits for the device; do it now.
            Snapshot(self._sums).wait()

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels that can occur."""
        return self.layout.labels

    @property
    def uses_kernel(self) -> bool:
        """Whether a Warp kernel computes the sums, except for batches of types that it cannot read."""
        return self._kernel is not None

    def update(
        self,
        pred: Mapping[str, Tensor],
        true: Mapping[str, Tensor],
        numbers: Tensor,
        fidelity: Tensor,
        loss: Mapping[str, Tensor] | None = None,
        *,
        applied: Tensor | None = None,
    ) -> None:
        """Store the sums of a batch in the slot BATCH, and add them to WINDOW and EPOCH.

        Args:
            pred: predictions by label name, in the shape of the label, optionally with a trailing axis of 1.
            true: labels in the same shapes, NaN where missing, and masks of shape (B,) or (B, 1), for per-atom labels
                also (B, N) or (B, N, 1). An absent label does not count anywhere.
            numbers: atomic numbers, (B, N), 0 for padding.
            fidelity: fidelity indices, (B,), in [0, n_fidelities).
            loss: what the loss function returned: `Losses` with sums and counts; otherwise the scalar ``loss`` is
                summed, weighted by the number of structures with any label. None leaves the batch out.
            applied: False if the step was skipped, a scalar boolean: WINDOW and EPOCH then only count it as skipped.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
            IndexError: a fidelity is out of range. On CUDA, all sums become NaN instead, and stay so.
        """
        if fidelity.shape != numbers.shape[:1]:
            raise ValueError(f"fidelity has shape {tuple(fidelity.shape)}; expected {tuple(numbers.shape[:1])}")
        batch = Batch(pred, true, numbers, fidelity, loss, applied)
        if self._kernel is None or not self._kernel.add(batch):
            self._torch.add(batch)

    def find_finite(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Return which structures have finite predictions wherever a component counts, (B,); see `update`."""
        finite = None if self._kernel is None else self._kernel.find_finite(pred, true, numbers)
        return self._torch.find_finite(pred, true, numbers) if finite is None else finite

    def batch_rmse(self) -> dict[str, float]:
        """Return the RMSE of each label over this rank's share of the last batch, in source units.

        Labels that are counted nowhere are absent. Waits for the device.
        """
        sums = self.layout.by_label(self._errors.view(self.layout.fidelities, self.layout.stride).sum(0).tolist())
        return {name: math.sqrt(square / count) for name, (square, count, *_) in sums.items() if count}

    def snapshot(self) -> Snapshot:
        """Start copying all slots, summed over all ranks, to the CPU without waiting for it."""
        return Snapshot(_sum_over_ranks(self._sums, self._communicator))

    def reset(self, slot: Slot) -> None:
        """Set a slot to zero; snapshots that were requested earlier are not affected."""
        self._sums[slot].zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all slots on the CPU, summed over all ranks; waits for the device."""
        sums = _sum_over_ranks(self._sums, self._communicator).to("cpu", copy=True)
        return {**self.layout.of_errors(), "loss": list(self.layout.loss.names), "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums from `state_dict`, regardless of the number of ranks that wrote them.

        Version 0.1 saved the sum of the batch losses instead of the terms of the loss; these then start at zero.

        Raises:
            ValueError: the sums are for other labels, fidelities or quantities.
        """
        self.layout.check_saved(state, slots=len(Slot))
        self._sums.zero_()
        # Rank 0 holds the total, since there may be more or fewer ranks than when it was saved.
        if not self._communicator.rank:
            known = self.layout.cells if state.get("loss") == list(self.layout.loss.names) else self.layout.errors
            self._sums[:, :known].copy_(state["sums"][:, :known])


def _sum_over_ranks(sums: Tensor, communicator: Communicator) -> Tensor:
    """Return the total over all ranks; with a single rank, the sums themselves and not a copy."""
    if communicator.world_size == 1:
        return sums
    total = sums.clone()
    communicator.all_reduce_sum(total)
    return total
