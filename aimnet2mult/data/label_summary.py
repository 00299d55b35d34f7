"""What remains of the energies after subtracting reference energies, and how large the forces are. Needs only NumPy."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions

__all__ = ["describe_energies", "summarize_labels"]

Floats = npt.NDArray[np.float64]


def summarize_labels(groups: Iterable[Mapping[str, npt.NDArray[Any]]]) -> str:
    """Return a line that describes energies and forces.

    Args:
        groups: ``numbers`` (b, n), and optionally ``energy`` (b,) in eV, less the reference energies, and ``forces``
            (b, n, 3) in eV/Å; NaN if missing. Only one group is needed at a time.
    """
    numbers, energies = [], []
    squares, components = 0.0, 0
    for group in groups:
        if "energy" in group:
            known = np.isfinite(group["energy"])
            numbers.append(group["numbers"][known])
            energies.append(group["energy"][known].astype(np.float64))
        if "forces" in group:
            present = group["forces"][group["numbers"] != 0].astype(np.float64)
            squares += float(np.nansum(np.square(present)))
            components += int(np.isfinite(present).sum())
    texts = []
    if any(map(len, energies)):
        texts.append(describe_energies(Compositions.of(numbers), np.concatenate(energies)))
    if components:
        texts.append(f"forces rms {(squares / components) ** 0.5:.3g} eV/Å")
    return "; ".join(texts)


def describe_energies(compositions: Compositions, residual: Floats) -> str:
    """Return the range and RMS of the energies (B,) less reference energies, and the composition that fits worst."""
    per_atom = residual / compositions.counts.sum(axis=1)[compositions.index]
    mean = compositions.mean(residual)
    worst = int(np.abs(mean).argmax())
    rms = float(np.sqrt(np.mean(np.square(residual))))
    return (
        f"energies less references {per_atom.min():.3g} to {per_atom.max():.3g} eV/atom, rms {rms:.3g} eV "
        f"(worst: {compositions.structures[worst]:.0f} x {compositions.formula(worst)}, mean {mean[worst]:.3g} eV)"
    )
