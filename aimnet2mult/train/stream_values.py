"""The values of the streams, computed from error sums."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aimnet2mult.metrics.declarations import STREAMS
from aimnet2mult.metrics.layout import LossTerms
from aimnet2mult.metrics.statistics import statistics
from aimnet2mult.quantities import Label

__all__ = ["StreamValues"]


class StreamValues:
    """Computes the values of the streams, and keeps the newest ones.

    Args:
        labels: the labels.
        fidelity_names: one name per fidelity.
        loss: the components of the loss.
    """

    def __init__(self, labels: Sequence[Label], fidelity_names: Sequence[str], loss: LossTerms) -> None:
        self.latest: Mapping[str, float] = {}
        """The newest values by full name, in source units. It is replaced as a whole, by any thread."""
        self._labels = tuple(labels)
        self._fidelity_names = tuple(fidelity_names)
        self._loss = loss

    def compute(self, stream: str, slot: NDArray[np.float64], **others: float) -> dict[str, float]:
        """Return the statistics of a slot of error sums that belong to a stream, and the other values."""
        values = statistics(slot, self._labels, self._fidelity_names, STREAMS[stream], self._loss) | others
        # Values that are absent now, because all steps were skipped, must not be shown as if they were new.
        of_others = {name: value for name, value in self.latest.items() if not name.startswith(f"{stream}/")}
        self.latest = of_others | {f"{stream}/{name}": value for name, value in values.items()}
        return values
