"""The layout of error sums in memory. Does not import torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aimnet2mult.quantities import Label

__all__ = ["NO_TERMS", "QUANTITIES", "Layout", "LossTerms"]

QUANTITIES = ("square", "count", "absolute", "true", "true_square", "skipped")
"""Sums over the components of a label: squared error, 1, absolute error, true value and its square.

``skipped`` is the count in the structures that are left out of all other sums; see `ErrorSums`.
"""


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """The components of the loss, which are summed separately, and their weights.

    Each component is a mean: a sum over everything it counts, divided by the count. The loss is their weighted sum.
    """

    names: tuple[str, ...] = ()
    """Names of the components; none if they are unknown, as for a custom loss, which is then summed as a whole."""
    weights: tuple[float, ...] = ()
    """Weights of the components in the published loss."""


NO_TERMS = LossTerms()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The order of the float64 cells in a slot of error sums.

    For each fidelity: ``quantities`` of each label, in this order; then, if energy is a label, the sum of squared
    energy errors per atom. Then the sums of the terms of the loss, and their counts; the last term is the whole loss,
    weighted by structures, for losses without components. The last cell is the number of skipped training steps or
    skipped validation structures.

    Raises:
        ValueError: a label is repeated, or there is no label or no fidelity.
    """

    labels: tuple[Label, ...]
    fidelities: int
    quantities: tuple[str, ...] = QUANTITIES
    """All of `QUANTITIES`, or the first two."""
    loss: LossTerms = NO_TERMS

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"labels are {self.names}; expected at least one, and each only once")
        if self.fidelities < 1:
            raise ValueError(f"the number of fidelities is {self.fidelities}; expected at least 1")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(label.name for label in self.labels)

    @property
    def has_energy(self) -> bool:
        """Whether energy is a label."""
        return "energy" in self.names

    @property
    def stride(self) -> int:
        """Number of cells of one fidelity."""
        return len(self.quantities) * len(self.labels) + self.has_energy

    @property
    def errors(self) -> int:
        """Number of cells of all fidelities, which are the first of a slot."""
        return self.fidelities * self.stride

    @property
    def terms(self) -> int:
        """Number of terms of the loss, including the whole loss."""
        return len(self.loss.names) + 1

    @property
    def cells(self) -> int:
        """Number of cells of a slot."""
        return self.errors + 2 * self.terms + 1

    def of_errors(self) -> dict[str, Any]:
        """Return what determines the cells of the fidelities, as plain values."""
        return {"labels": list(self.names), "fidelities": self.fidelities, "quantities": list(self.quantities)}

    def check_saved(self, state: Mapping[str, Any], *, slots: int) -> None:
        """Check that sums saved by `ErrorSums.state_dict` are of the same labels, fidelities, quantities and slots.

        Raises:
            ValueError: they are not.
        """
        expected = self.of_errors()
        found = {key: state.get(key) for key in expected}
        if found != expected:
            raise ValueError(f"the saved sums are for {_enumerate(found)}; this run has {_enumerate(expected)}")
        shape, own = tuple(state["sums"].shape), (slots, self.cells)
        if len(shape) != len(own) or shape[0] != slots:
            raise ValueError(f"the saved sums have shape {shape}; expected {own}")

    def by_label(self, row: Sequence[float]) -> dict[str, Sequence[float]]:
        """Return the cells of each label among those of one fidelity, or of the sum over several."""
        width = len(self.quantities)
        return {name: row[i * width : (i + 1) * width] for i, name in enumerate(self.names)}


def _enumerate(items: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in items.items())
