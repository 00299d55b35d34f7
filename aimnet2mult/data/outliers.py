"""Outliers in energies and forces, by rules that the outliers themselves hardly affect."""

from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions

__all__ = ["MAX_WORST", "find_energy_outliers", "find_force_outliers", "robust_residuals"]

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


def robust_residuals(compositions: Compositions, energy: Floats) -> Floats:
    """Return energies (B,) less a sum over atoms, fitted by least squares to the median of each composition."""
    weight = np.sqrt(compositions.structures)
    medians = compositions.median(energy)
    fitted = np.linalg.lstsq(compositions.counts * weight[:, None], medians * weight, rcond=None)[0]
    residuals: Floats = energy - (compositions.counts @ fitted)[compositions.index]
    return residuals


def find_energy_outliers(residuals: Floats) -> tuple[Ints, Floats]:
    """Find energies far from the median: beyond ``ENERGY_SIGMAS`` times 1.4826 times the median absolute deviation.

    Args:
        residuals: Energies in eV, less a sum over atoms.

    Returns:
        The outliers, worst first, and the deviation of each structure from the median.
    """
    if len(residuals) < MIN_ENERGIES:
        return np.empty(0, np.int64), residuals
    deviation = residuals - np.median(residuals)
    sigma = 1.4826 * float(np.median(np.abs(deviation)))
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
