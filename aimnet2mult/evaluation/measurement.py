"""Everything that an evaluation sums up, and the metrics that follow from it."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.groupings import ELEMENT, Grouping, Groupings
from aimnet2mult.evaluation.results import largest_by_group
from aimnet2mult.evaluation.setup import Setup
from aimnet2mult.evaluation.sums import GroupSums, LargestErrors
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.statistics import VALIDATION, statistics
from aimnet2mult.train.element_sums import ElementSums, Values
from aimnet2mult.train.observation import Observer

__all__ = ["Measurement"]

KINDS = ("structures", "rmse", "mae", "r2", "max", "atom_rmse", "atom_mae", "atom_max")
"""The order of the metrics of a label."""


class Measurement:
    """The error sums of an evaluation: overall as in a validation during training, and by group.

    Args:
        setup: what is evaluated.
        groupings: the groupings.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(self, setup: Setup, groupings: Groupings, communicator: Communicator) -> None:
        labels, device, total = setup.saved.labels, setup.device, setup.data.places.total
        self._setup = setup
        self._groupings = groupings
        self.sums = ErrorSums(
            labels, len(setup.saved.fidelity_names), device, loss=setup.terms, communicator=communicator
        )
        """The sums of a validation."""
        everything = Grouping(name="all", groups=("all",), codes=np.zeros(total, np.int64))
        self._all = GroupSums(labels, everything, device, communicator)
        self._others = [GroupSums(labels, grouping, device, communicator) for grouping in groupings.others]
        elements = groupings.elements
        self._elements = ElementSums(labels, elements, device, communicator) if elements else None
        self._largest = LargestErrors(labels, elements, total, device, communicator)
        self.errors: Mapping[str, npt.NDArray[np.float64]] = {}
        """Largest error of each label in each structure, in source units, by abbreviation, after `collect`."""
        self._of_elements = np.empty((0, 0))

    @property
    def observers(self) -> list[Observer]:
        """The observers of the batches, besides `sums`."""
        return [self._all, *self._others, *([self._elements] if self._elements else []), self._largest]

    def collect(self, evaluated: npt.NDArray[np.bool_]) -> tuple[Values, dict[str, dict[str, Values]]]:
        """Return the metrics of all structures, and those by grouping and group, in source units.

        All ranks must call this; it waits for the device.

        Args:
            evaluated: which structures have been evaluated, by origin.
        """
        errors, self._of_elements = self._largest.collect()
        self.errors = dict(zip(self._largest.names, errors, strict=True))
        by = {
            grouping.name: self._by_group(grouping, sums.values(), evaluated)
            for grouping, sums in zip(self._groupings.others, self._others, strict=True)
        }
        if self._elements is not None:
            by[ELEMENT] = self._by_element(self._elements.snapshot()())
        return self._overall(evaluated), by

    def _overall(self, evaluated: npt.NDArray[np.bool_]) -> Values:
        slot = self.sums.snapshot().wait()[Slot.EPOCH]
        names = self._setup.saved.fidelity_names
        values = statistics(slot, self.sums.labels, names, VALIDATION, self._setup.terms)
        values = {name: value for name, value in values.items() if "/" not in name}
        if not self._setup.has_loss:
            values = {name: value for name, value in values.items() if not name.startswith("loss")}
        (per_atom,) = self._all.values()
        (largest,) = self._largest_of(evaluated, np.zeros(len(evaluated), np.int64), 1)
        return self._ordered({**per_atom, **values, **largest, **self._counts(evaluated)})

    def _by_group(
        self, grouping: Grouping, values: Sequence[Values], evaluated: npt.NDArray[np.bool_]
    ) -> dict[str, Values]:
        largest = self._largest_of(evaluated, grouping.codes, len(grouping.groups))
        members = [evaluated & (grouping.codes == code) for code in range(len(grouping.groups))]
        return {
            name: self._ordered({**metrics, **largest_errors, **self._counts(chosen)})
            for name, metrics, largest_errors, chosen in zip(grouping.groups, values, largest, members, strict=True)
            if chosen.any()
        }

    def _by_element(self, values: Sequence[Values]) -> dict[str, Values]:
        names = self._largest.names
        found = {}
        for element, metrics, errors in zip(self._groupings.elements, values, self._of_elements.T, strict=True):
            largest = {f"{name}_max": float(error) for name, error in zip(names, errors, strict=True) if error >= 0}
            counts = self._counts(self._containing(element))
            found[join_symbols([element])] = self._ordered({**metrics, **largest, **counts})
        return found

    def _containing(self, element: int) -> npt.NDArray[np.bool_]:
        """Return which structures contain an element, by origin."""
        chosen = np.zeros(self._setup.data.places.total, np.bool_)
        for dataset in self._setup.data.datasets:
            for block in dataset.blocks(["origin", "numbers"]):
                chosen[block["origin"]] = (block["numbers"] == element).any(axis=1)
        return chosen

    def _counts(self, chosen: npt.NDArray[np.bool_]) -> Values:
        """Return the number of structures, and of those with each label and finite predictions."""
        labeled = {name: values >= 0 for name, values in self.errors.items() if not name.endswith("_atom")}
        counts = {f"{name}_structures": int((chosen & known).sum()) for name, known in labeled.items()}
        return {"structures": int(chosen.sum()), **counts}

    def _largest_of(
        self, evaluated: npt.NDArray[np.bool_], codes: npt.NDArray[np.int64], groups: int
    ) -> list[dict[str, float]]:
        errors = np.stack([values[evaluated] for values in self.errors.values()])
        return largest_by_group(errors, codes[evaluated], groups, list(self.errors))

    def _ordered(self, values: Values) -> Values:
        """Return metrics in the order of the labels and then the kinds, after all others."""
        names = [f"{label.abbr}_{kind}" for label in self._setup.saved.labels for kind in KINDS]
        first = {name: value for name, value in values.items() if name not in names}
        return {**first, **{name: values[name] for name in names if name in values}}
