"""Outliers in energies and forces, by rules that the outliers themselves hardly affect."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_WORST", "Compositions", "energy_residuals", "find_energy_outliers", "find_force_outliers"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_WORST = 10
"""Number of outliers that are listed."""
ENERGY_SIGMAS = 50
"""Energies are outliers beyond this multiple of the robust standard deviation."""
MIN_SIGMA = 0.02
"""Lower bound of the robust standard deviation of energies, in eV."""
MIN_ENERGIES = 20
"""With fewer energies, none is an outlier: the fit to the atoms would follow it."""
FORCE_RATIO = 20
"""Forces are outliers beyond this multiple of the upper quartile."""
MIN_FORCE = 10.0
"""Smaller forces are never outliers, in eV/Å."""


@dataclass
class Compositions:
    """A table of the numbers of atoms of each element; structures refer to its rows."""

    counts: list[Ints] = field(default_factory=list)
    """Number of atoms by atomic number, for each composition."""
    _index: dict[int, int] = field(default_factory=dict)

    def add(self, numbers: npt.NDArray[Any], max_element: int) -> npt.NDArray[np.int32]:
        """Return the row in the table of each structure: (B, N) → (B,)."""
        counts = np.zeros((len(numbers), max_element + 1), np.int64)
        for z in np.unique(numbers).astype(int):
            counts[:, z] = (numbers == z).sum(axis=1)
        counts[:, 0] = 0
        # A hash, because sorting numbers is faster than sorting rows.
        weights = np.random.default_rng(1).integers(0, 2**63, size=max_element + 1)
        hashes, first, inverse = np.unique(counts @ weights, return_index=True, return_inverse=True)
        rows = [self._row(int(key), counts[index]) for key, index in zip(hashes, first, strict=True)]
        return np.array(rows, np.int32)[inverse]

    def _row(self, key: int, counts: Ints) -> int:
        if key not in self._index:
            self._index[key] = len(self.counts)
            self.counts.append(counts)
        return self._index[key]


def energy_residuals(energy: Floats, composition: npt.NDArray[np.int32], compositions: Compositions) -> Floats:
    """Return energies less a sum over atoms, fitted to the median energy of each composition; eV, NaN where missing.

    Medians, so that outliers do not affect the fit; each counts as often as its composition occurs.
    """
    known = np.flatnonzero(np.isfinite(energy))
    if not len(known):
        return np.full(len(energy), np.nan)
    ordered = known[np.lexsort((energy[known], composition[known]))]
    rows, starts, counts = np.unique(composition[ordered], return_index=True, return_counts=True)
    medians = energy[ordered[starts + counts // 2]]
    atoms = np.array([compositions.counts[row] for row in rows], np.float64)
    weight = np.sqrt(counts)
    fitted = np.linalg.lstsq(atoms * weight[:, None], medians * weight, rcond=None)[0]
    table = np.full(len(compositions.counts), np.nan)
    table[rows] = atoms @ fitted
    residuals: Floats = energy - table[composition]
    return residuals


def find_energy_outliers(residuals: Floats) -> tuple[Ints, Floats]:
    """Find energies far from the median: beyond ``ENERGY_SIGMAS`` times 1.4826 times the median absolute deviation.

    Args:
        residuals: Energies in eV, less a sum over atoms; NaN where missing.

    Returns:
        The outliers, worst first, and the deviation of each structure from the median.
    """
    known = np.isfinite(residuals)
    if known.sum() < MIN_ENERGIES:
        return np.empty(0, np.int64), residuals
    deviation = residuals - np.median(residuals[known])
    sigma = 1.4826 * float(np.median(np.abs(deviation[known])))
    return _worst(np.abs(deviation), ENERGY_SIGMAS * max(sigma, MIN_SIGMA)), deviation


def find_force_outliers(largest: npt.NDArray[np.float32]) -> Ints:
    """Find structures whose largest force exceeds ``FORCE_RATIO`` times the upper quartile, and ``MIN_FORCE``.

    Args:
        largest: Largest force on an atom of each structure, in eV/Å; NaN where missing.
    """
    known = largest[np.isfinite(largest)]
    if not len(known):
        return np.empty(0, np.int64)
    quartile = float(np.percentile(known, 75, method="lower"))
    return _worst(largest, max(FORCE_RATIO * quartile, MIN_FORCE))


def _worst(sizes: npt.NDArray[np.floating[Any]], limit: float) -> Ints:
    """Return the indices of the values above a limit, largest first."""
    found = np.flatnonzero(sizes > limit)
    return found[np.argsort(-sizes[found], kind="stable")]
