"""A random sample of predictions and labels, for plots."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aimnet2mult.evaluation.gathering import GatheredBatch
from aimnet2mult.quantities import Label

__all__ = ["MAX_POINTS", "PointSample"]

MAX_POINTS = 20_000
"""Maximum number of values of each label and fidelity that are kept."""

Points = npt.NDArray[np.float64]


class PointSample:
    """A uniform random sample of the values of each label and fidelity, which bounds the memory.

    Each value is given a random number, and those with the smallest numbers are kept.

    Args:
        labels: the labels.
        fidelities: number of fidelities.
        limit: maximum number of values of each label and fidelity.
    """

    def __init__(self, labels: Sequence[Label], fidelities: int, limit: int = MAX_POINTS) -> None:
        self._labels = labels
        self._limit = limit
        self._rng = np.random.default_rng(0)
        self._kept: dict[tuple[str, int], Points] = {
            (label.name, index): np.empty((3, 0)) for label in labels for index in range(fidelities)
        }
        self._counts = dict.fromkeys(self._kept, 0)

    def receive(self, batch: GatheredBatch) -> None:
        """Sample the values of a batch; those without a finite label or prediction are left out."""
        real = batch.arrays["numbers"] != 0
        for label in self._labels:
            true, pred = batch.arrays[label.name].astype(np.float64), batch.predictions[label.name]
            known = np.isfinite(true) & np.isfinite(pred)
            if label.per_atom:
                known &= real.reshape(real.shape + (1,) * (known.ndim - 2))
            for index in np.unique(batch.arrays["fidelity"]).tolist():
                chosen = known & (batch.arrays["fidelity"] == index).reshape((-1,) + (1,) * (known.ndim - 1))
                self._add((label.name, index), true[chosen], pred[chosen])

    def points(self, label: Label, fidelity: int) -> Points:
        """Return labels and predictions, in source units, (2, n)."""
        return self._kept[label.name, fidelity][1:, :]

    def count(self, label: Label) -> int:
        """Return the number of values, of which those that are kept are a sample."""
        return sum(count for (name, _), count in self._counts.items() if name == label.name)

    def _add(self, key: tuple[str, int], true: Points, pred: Points) -> None:
        self._counts[key] += len(true)
        rows = np.stack((self._rng.random(len(true)), true, pred))
        kept = np.concatenate((self._kept[key], rows), axis=1)
        if kept.shape[1] > self._limit:
            kept = kept[:, np.argpartition(kept[0], self._limit)[: self._limit]]
        self._kept[key] = kept
