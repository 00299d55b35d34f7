"""Error sums of each structure of a batch, computed for all labels at once."""

from collections.abc import Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from aimnet2mult.metrics.layout import QUANTITIES
from aimnet2mult.metrics.masks import expand_mask, mask_name, match_shape
from aimnet2mult.quantities import Label

__all__ = ["COUNT", "SQUARE", "StructureErrors", "are_finite", "skip_structures"]

SQUARE, COUNT = QUANTITIES.index("square"), QUANTITIES.index("count")


class StructureErrors:
    """Sums of the errors of each structure over its atoms, separately for each channel.

    A channel is one component of a label; `labels` gives their order. See `ErrorSums` for the components that count.

    Args:
        labels: the labels.
        device: device of the batches.
        quantities: all of `QUANTITIES`, of which `sums` returns all but the last, or only squares and counts.
    """

    def __init__(
        self, labels: Sequence[Label], device: torch.device | str | None = None, quantities: Sequence[str] = QUANTITIES
    ) -> None:
        # Per-structure labels come first, so that they form one block.
        self.labels = sorted(labels, key=lambda label: label.per_atom)
        """The labels in the order of their channels."""
        before_energy = takewhile(lambda label: label.name != "energy", self.labels)
        self.energy_channel = sum(label.components for label in before_energy)
        """Index of the energy's channel, if energy is a label."""
        self._all_quantities = tuple(quantities) == QUANTITIES
        self._components = [label.components for label in self.labels]
        self._masks = [(label, mask_name(label.name), f"the mask of {label.name!r}") for label in self.labels]
        self._width = sum(self._components)
        self._per_structure = sum(label.components for label in self.labels if not label.per_atom)
        self._zero = torch.zeros((), dtype=torch.float64, device=device)
        self._one = torch.ones((), dtype=torch.float64, device=device)
        self._infinity = torch.full((), torch.inf, dtype=torch.float64, device=device)
        self._padding = torch.zeros((), dtype=torch.int64, device=device)
        self._absent = torch.full((), torch.nan, device=device)

    def sums(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums, (quantities, channels, B), and the number of counted atoms, (per-structure channels, B).

        See `ErrorSums.update` for the arguments. The sums are float64. A structure counts as at least one atom, so
        that it is safe to divide by their number.

        Raises:
            ValueError: a shape does not fit, or a label has no prediction.
        """
        # Every label becomes (components, B, N), so that each operation handles all labels at once: a per-structure
        # label is repeated for each atom, and its sum over the real atoms is divided by their number.
        structures, atoms = numbers.shape
        arrays = self._arrays(pred, true, structures, atoms)
        sums = self._sum_counted(torch.cat(arrays).double(), true, numbers)
        per_structure = sums[:, : self._per_structure]
        natom = torch.maximum(per_structure[COUNT], self._one)
        per_structure.div_(natom)
        return sums, natom

    def _arrays(
        self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], structures: int, atoms: int
    ) -> list[Tensor]:
        """Return the predictions of all labels followed by all labels, each as a (components, B, N) view."""
        predicted, labeled = [], []
        for label in self.labels:
            array = true.get(label.name)
            if array is None:
                absent = self._absent.expand(label.components, structures, atoms)
                predicted.append(absent)
                labeled.append(absent)
                continue
            if label.name not in pred:
                raise ValueError(f"the batch has labels {label.name!r}, but the model does not predict them")
            shape = label.shape(structures, atoms)
            predicted.append(_expand(pred[label.name], "prediction", label, shape, atoms))
            labeled.append(_expand(array, "label", label, shape, atoms))
        return predicted + labeled

    def _sum_counted(self, both: Tensor, true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Sum the counted components over the atoms; return (quantities, channels, B).

        ``both`` holds the predictions followed by the labels. It is overwritten, because memory that was just used is
        faster than new memory.
        """
        predicted, labeled = both[: self._width], both[self._width :]
        counted = self._find_counted(labeled, true, numbers)
        # Select errors before using them: 0 · NaN would be NaN.
        error = torch.where(counted, predicted.sub_(labeled), self._zero, out=predicted)
        if self._all_quantities:
            value = torch.where(counted, labeled, self._zero)
            return torch.stack((error * error, counted.double(), error.abs(), value, value * value)).sum(-1)
        error.square_()
        labeled.copy_(counted)
        return both.sum(-1).view(2, self._width, -1)

    def _find_counted(self, labeled: Tensor, true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Return which components count: (channels, B, N)."""
        structures, atoms = numbers.shape
        counted = labeled.abs().lt(self._infinity).logical_and_(numbers.ne(self._padding))
        of_labels = counted.split(self._components)  # type: ignore[no-untyped-call] # torch
        for channels, (label, key, what) in zip(of_labels, self._masks, strict=True):
            if key in true:
                channels.logical_and_(expand_mask(true[key], structures, atoms, what, per_atom=label.per_atom))
        return counted


def are_finite(sums: Tensor) -> Tensor:
    """Return which structures have finite sums of squares, (B,), from the sums of `StructureErrors.sums`."""
    return sums[SQUARE].isfinite().all(0)


def skip_structures(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out structures whose errors are not finite.

    Return the sums with one more row, the counts of the structures left out, and which structures are kept, (B,).
    """
    finite = are_finite(sums)
    kept = torch.where(finite, sums, 0.0)
    return torch.cat((kept, (sums[COUNT] - kept[COUNT]).unsqueeze(0))), finite


def _expand(array: Tensor, what: str, label: Label, shape: tuple[int, ...], atoms: int) -> Tensor:
    """Return a prediction or label, which has the given shape, as a (components, B, N) view."""
    if array.shape != shape:
        array = match_shape(array, shape, f"the {what} of {label.name!r}")
    several = label.components > 1
    if label.per_atom:
        return array.permute(2, 0, 1) if several else array.unsqueeze(0)
    return (array.t() if several else array).unsqueeze(-1).expand(label.components, shape[0], atoms)
