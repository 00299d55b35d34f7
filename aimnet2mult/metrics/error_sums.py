"""Sums of prediction errors, kept on the device and never read there."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.distributed.rank_info import Communicator
from aimnet2mult.labels import LABELS, Label
from aimnet2mult.metrics.masks import mask_name, reshaped, widened_mask
from aimnet2mult.metrics.statistics import QUANTITIES, Layout

__all__ = ["ErrorSums", "Slot", "Snapshot"]

SQUARE, COUNT = QUANTITIES.index("square"), QUANTITIES.index("count")


class Slot(IntEnum):
    """What is summed over: the last batch, or all since the slot was reset."""

    BATCH = 0
    WINDOW = 1
    EPOCH = 2


class Snapshot:
    """A copy of all slots, on its way to the host. It owns its buffer: later updates leave it alone."""

    def __init__(self, sums: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if sums.is_cuda:
            # PyTorch keeps pinned buffers, and lends one again only when the copy into it is over.
            self._host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            self._host.copy_(sums, non_blocking=True)
            # A blocking event lets the waiting thread sleep, where it would else keep a core busy.
            self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(sums.device))
        else:
            self._host = sums.clone()

    def wait(self) -> NDArray[np.float64]:
        """Wait for the copy and return it: (slots, cells), rows by `Slot`, cells by `Layout`.

        On CUDA it blocks until the device has got there, so call it from another thread than the
        one that trains.
        """
        if self._done is not None:
            self._done.synchronize()
        return self._host.numpy()


class ErrorSums:
    """Sums of errors for each label and fidelity over a batch, a window and an epoch, in float64.

    A component counts when its label is finite, its atom is real (atomic number not 0) and its mask,
    if there is one, allows it; the mask of ``forces`` is ``forces_mask`` beside the labels, as in the
    loss. What does not count is chosen away and can hold anything. A counted error that is not finite
    makes the sums of its own label and fidelity so, and no others.

    Each rank adds up its own; `snapshot` and `state_dict`, which all ranks then call, give what they have together.

    The state is one tensor of a fixed shape on the device. Once this is built, nothing but
    `state_dict` reads from the device, and no update keeps a graph.

    Args:
        labels: which there can be.
        n_fidelities: how many there are.
        device: where the sums are kept.
        quantities: what is summed: all of `QUANTITIES`, or only the squares and counts, which are quicker.
        ranks: among whom each batch is shared out.

    Raises ValueError for an unknown label and for no fidelity.
    """

    def __init__(
        self,
        labels: Sequence[str],
        n_fidelities: int,
        device: torch.device | str | None = None,
        quantities: tuple[str, ...] = QUANTITIES,
        *,
        ranks: Communicator | None = None,
    ) -> None:
        self._ranks = ranks or Communicator()
        self.layout = Layout(labels=tuple(labels), fidelities=n_fidelities, quantities=quantities)
        # Labels per structure come first, so that what is done to them alone is done to one block.
        self._labels = sorted((LABELS[name] for name in labels), key=lambda label: label.per_atom)
        self._channels = _channels(self._labels)
        self._components = [label.components for label in self._labels]
        self._masks = [(label, mask_name(label.name), f"the mask of {label.name!r}") for label in self._labels]
        self._width = sum(label.components for label in self._labels)
        self._whole = sum(label.components for label in self._labels if not label.per_atom)

        self._sums = torch.zeros((len(Slot), self.layout.cells), dtype=torch.float64, device=device)
        self._batch, self._pooled = self._sums[Slot.BATCH], self._sums[Slot.WINDOW :]
        self._errors = self._batch[:-2]
        self._per_atom = self._errors.view(n_fidelities, self.layout.stride)[:, -1]
        self._loss = self._batch[-2]
        self._cells = self._cell_of_each_sum().to(device)

        self._empty = torch.zeros_like(self._batch)
        self._empty_with_loss = self._empty.clone()
        self._empty_with_loss[-1] = 1
        self._zero = torch.zeros((), dtype=torch.float64, device=device)
        self._one = torch.ones((), dtype=torch.float64, device=device)
        self._infinity = torch.full((), torch.inf, dtype=torch.float64, device=device)
        self._padding = torch.zeros((), dtype=torch.int64, device=device)
        self._absent = torch.full((), torch.nan, device=device)
        if self._sums.is_cuda:
            # The first pinned buffer is allocated by the driver, which waits for the device.
            Snapshot(self._sums).wait()

    # Without views and versions to keep track of, which no_grad does, each operation takes less.
    @torch.inference_mode()
    def update(
        self,
        pred: Mapping[str, Tensor],
        true: Mapping[str, Tensor],
        numbers: Tensor,
        fidelity: Tensor,
        loss: Tensor | None = None,
    ) -> None:
        """Put a batch's sums into the slot BATCH and add them to WINDOW and EPOCH.

        Args:
            pred: predictions by label name, in the shape of their label or with one more axis of 1.
            true: labels likewise, NaN where there is none, and masks, of shape (B,), (B, 1) and per
                atom also (B, N), (B, N, 1). A label that is not there counts nowhere.
            numbers: (B, N) atomic numbers, 0 for padding.
            fidelity: (B,) integers, each from 0 up to the number of fidelities.
            loss: scalar. None leaves the batch out of the mean loss.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
        """
        structures, atoms = numbers.shape
        if fidelity.shape != (structures,):
            raise ValueError(f"fidelity has shape {tuple(fidelity.shape)}; expected ({structures},)")
        if loss is not None and loss.ndim:
            raise ValueError(f"loss has shape {tuple(loss.shape)}; expected a scalar")
        # Every label as (components, B, N), so that one operation serves all: per structure, a label
        # is repeated for each atom, and the sum over the real ones divided by their number.
        arrays = self._arrays(pred, true, structures, atoms)
        sums = self._summed(torch.cat(arrays).double(), true, numbers)
        whole = sums[:, : self._whole]
        real_atoms = torch.maximum(whole[COUNT], self._one)
        whole.div_(real_atoms)

        self._batch.copy_(self._empty if loss is None else self._empty_with_loss)
        if loss is not None:
            self._loss.copy_(loss)
        # A fidelity that is out of range ends outside the cells, which is an error, not in others' cells.
        cells = torch.add(self._cells, fidelity, alpha=self.layout.stride)
        self._errors.index_add_(0, cells.view(-1), sums.view(-1))
        if self.layout.has_energy:
            energy = self._channels["energy"].start
            natom = real_atoms[energy]
            self._per_atom.index_add_(0, fidelity, whole[SQUARE, energy] / (natom * natom))
        self._pooled.add_(self._batch)

    def snapshot(self) -> Snapshot:
        """Start copying all slots of all ranks to the host, without waiting for it."""
        return Snapshot(self._of_all_ranks())

    def reset(self, slot: Slot) -> None:
        """Set a slot to zero, after all that was asked for before."""
        self._sums[slot].zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all slots of all ranks on the CPU; this waits for the device."""
        return {
            "labels": list(self.layout.labels),
            "fidelities": self.layout.fidelities,
            "quantities": list(self.layout.quantities),
            "sums": self._of_all_ranks().to("cpu", copy=True),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s sums. Raises ValueError if they are sums of something else."""
        here = (list(self.layout.labels), self.layout.fidelities, list(self.layout.quantities))
        there = (list(state["labels"]), state["fidelities"], list(state.get("quantities", ())))
        if here != there:
            raise ValueError(f"the saved sums are of labels, fidelities and quantities {there}; here are {here}")
        if self._ranks.rank:
            # What all have together is with the first: the others may be more or fewer than those that were saved.
            self._sums.zero_()
        else:
            self._sums.copy_(state["sums"])
            self._sums[:, -2:].mul_(self._ranks.world)

    def _of_all_ranks(self) -> Tensor:
        """Return the sums of all ranks together; on one rank no copy."""
        if self._ranks.world == 1:
            return self._sums
        sums = self._sums.clone()
        self._ranks.all_reduce_sum(sums)
        # Each rank has a loss of each batch: their mean is the batch's.
        sums[:, -2:].div_(self._ranks.world)
        return sums

    def _arrays(
        self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], structures: int, atoms: int
    ) -> list[Tensor]:
        """Return every label's prediction and then every label, each as a (components, B, N) view."""
        predicted, labelled = [], []
        for label in self._labels:
            array = true.get(label.name)
            if array is None:
                absent = self._absent.expand(label.components, structures, atoms)
                predicted.append(absent)
                labelled.append(absent)
                continue
            if label.name not in pred:
                raise ValueError(f"{label.name!r} has labels and no prediction")
            shape = label.shape(structures, atoms)
            predicted.append(_spread(pred[label.name], "prediction", label, shape, atoms))
            labelled.append(_spread(array, "label", label, shape, atoms))
        return predicted + labelled

    def _summed(self, both: Tensor, true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Sum over the atoms what counts: (quantities, components, B).

        Predictions and labels, which come one after the other in ``both``, are overwritten: a memory that has just
        been used is quicker than a new one.
        """
        predicted, labelled = both[: self._width], both[self._width :]
        counted = self._counted(labelled, true, numbers)
        # The errors are chosen before anything is done with them: 0 · NaN would be NaN.
        error = torch.where(counted, predicted.sub_(labelled), self._zero, out=predicted)
        if self.layout.quantities == QUANTITIES:
            value = torch.where(counted, labelled, self._zero)
            return torch.stack((error * error, counted.double(), error.abs(), value, value * value)).sum(-1)
        error.square_()
        labelled.copy_(counted)
        return both.sum(-1).view(2, self._width, -1)

    def _counted(self, labelled: Tensor, true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Say which components count: (channels, B, N)."""
        structures, atoms = numbers.shape
        counted = labelled.abs().lt(self._infinity).logical_and_(numbers.ne(self._padding))
        for channels, (label, key, what) in zip(counted.split(self._components), self._masks, strict=True):
            if key in true:
                channels.logical_and_(widened_mask(true[key], structures, atoms, what, per_atom=label.per_atom))
        return counted

    def _cell_of_each_sum(self) -> Tensor:
        """Return where a structure's sums go for fidelity 0: (quantities, channels, 1)."""
        rows = [self.layout.labels.index(x.name) for x in self._labels for _ in range(x.components)]
        n_quantities = len(self.layout.quantities)
        first = torch.tensor(rows) * n_quantities
        return (first + torch.arange(n_quantities).unsqueeze(-1)).unsqueeze(-1)


def _channels(labels: Sequence[Label]) -> dict[str, slice]:
    """Return the places of each label's components where all are put one after another."""
    ends = list(accumulate(label.components for label in labels))
    return {x.name: slice(end - x.components, end) for x, end in zip(labels, ends, strict=True)}


def _spread(array: Tensor, what: str, label: Label, shape: tuple[int, ...], atoms: int) -> Tensor:
    """Return an array of a label, of its shape, as a (components, B, N) view."""
    if array.shape != shape:
        array = reshaped(array, shape, f"the {what} of {label.name!r}")
    several = label.components > 1
    if label.per_atom:
        return array.permute(2, 0, 1) if several else array.unsqueeze(0)
    return (array.t() if several else array).unsqueeze(-1).expand(label.components, shape[0], atoms)
