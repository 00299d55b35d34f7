"""The structures of one fidelity in one size group, and how many of them each pass over the data draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from math import gcd, isfinite
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aimnet2mult.errors import DataError

if TYPE_CHECKING:
    from aimnet2mult.data.dataset import DataSet

__all__ = ["Ints", "Rows", "Stratum", "find_strata"]

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint32]
"""Rows of groups that are kept: 4 bytes a structure."""


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """The structures of one fidelity in one size group."""

    fidelity: int
    size: int
    parts: tuple[range, ...]
    """Their rows in the group, in ascending order."""
    before: int
    """Number of structures of the same fidelity in smaller groups."""
    total: int
    """Number of structures of the same fidelity in all groups."""
    quota: int
    """Number of structures of the same fidelity that a pass draws from all groups."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def rows(self) -> Rows:
        """Return a new array of the rows."""
        return np.concatenate([np.arange(part.start, part.stop, dtype=np.uint32) for part in self.parts])

    def draws(self, passes: Ints) -> Ints:
        """Return how many structures each of ``passes`` draws from this stratum.

        Systematic sampling: the groups of the fidelity are segments of a line of length ``quota``, and a pass counts
        the points of an integer grid in each segment. The counts of a pass therefore add up to ``quota`` exactly, and
        each is the exact share rounded down or up. The grid is shifted from pass to pass, so that in the long run every
        group gets its share, however small.
        """
        grid = passes * _step(self.total) % self.total
        end = (self.quota * (self.before + len(self)) + grid) // self.total
        return end - (self.quota * self.before + grid) // self.total

    @property
    def max_draws(self) -> int:
        """The largest number of structures that any pass draws from this stratum."""
        return -(-self.quota * len(self) // self.total)


def find_strata(dataset: "DataSet", weights: Mapping[int, float] | None) -> list[Stratum]:
    """Return the strata of a data set that a pass draws from, by fidelity and size.

    Raises:
        DataError: There are no structures, or weights are invalid.
    """
    rows: dict[tuple[int, int], list[range]] = {}
    for size, group in dataset.items():
        for fidelity, part in group.runs:
            rows.setdefault((fidelity, size), []).append(part)
    number = {key: sum(map(len, parts)) for key, parts in rows.items()}
    totals: dict[int, int] = {}
    before = {}
    for fidelity, size in sorted(rows):
        before[fidelity, size] = totals.get(fidelity, 0)
        totals[fidelity] = before[fidelity, size] + number[fidelity, size]
    if not totals:
        raise DataError("the data set has no structures to draw")
    quotas = totals if weights is None else _quotas(totals, weights)
    return [
        Stratum(
            fidelity=fidelity,
            size=size,
            parts=tuple(rows[fidelity, size]),
            before=before[fidelity, size],
            total=totals[fidelity],
            quota=quotas[fidelity],
        )
        for fidelity, size in sorted(rows)
        if quotas[fidelity] > 0
    ]


def _step(total: int) -> int:
    """Return the shift of the grid per pass: coprime to ``total``, so that all shifts occur."""
    # Multiples of the golden ratio modulo 1 are spread most evenly (three-distance theorem).
    return next(step for step in count(round(0.6180339887498949 * total)) if gcd(step, total) == 1)


def _quotas(totals: Mapping[int, int], weights: Mapping[int, float]) -> dict[int, int]:
    """Distribute the structures of a pass among the fidelities by weight, with the largest remainder method."""
    unknown = sorted(set(weights) - set(totals))
    if unknown:
        raise DataError(f"there are weights for the fidelities {unknown}, but structures only for {sorted(totals)}")
    invalid = {f: w for f, w in weights.items() if not (isfinite(w) and w >= 0)}
    if invalid:
        raise DataError(f"fidelity weights are {invalid}; expected finite numbers of at least 0")
    full = {fidelity: float(weights.get(fidelity, 1.0)) for fidelity in totals}
    total_weight = sum(full.values())
    if total_weight == 0:
        raise DataError("all fidelity weights are 0; set at least one above 0")
    structures = sum(totals.values())
    exact = {fidelity: structures * weight / total_weight for fidelity, weight in full.items()}
    quotas = {fidelity: int(share) for fidelity, share in exact.items()}
    by_remainder = sorted(exact, key=lambda fidelity: (quotas[fidelity] - exact[fidelity], fidelity))
    for fidelity in by_remainder[: structures - sum(quotas.values())]:
        quotas[fidelity] += 1
    return quotas
