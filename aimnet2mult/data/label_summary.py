"""What remains of the energies after subtracting reference energies, and how large the forces are. Needs only NumPy."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions
from aimnet2mult.data.unit_hints import ForceEvidence, find_energy_unit, unit_hints

__all__ = ["describe_energies", "summarize_labels"]

Floats = npt.NDArray[np.float64]


def summarize_labels(
    groups: Iterable[Mapping[str, npt.NDArray[Any]]], sae: Mapping[int, float]
) -> tuple[str, list[str]]:
    """Return a line that describes energies and forces, and warnings about their units.

    Args:
        groups: ``numbers`` (b, n), and optionally ``energy`` (b,) in eV, less the reference energies, ``forces`` and
            ``coord`` (b, n, 3), ``charge`` (b,) and ``mult`` (b,); NaN if missing. Only one group is needed at a time.
        sae: the reference energies that were subtracted, by atomic number.
    """
    numbers, energies, forces = [], [], ForceEvidence()
    for group in groups:
        if "energy" in group:
            known = np.isfinite(group["energy"])
            numbers.append(group["numbers"][known])
            energies.append(group["energy"][known].astype(np.float64))
        if "forces" in group:
            forces.add(group)
    texts, energy_unit = [], None
    if any(map(len, energies)):
        compositions, energy = Compositions.of(numbers), np.concatenate(energies)
        texts.append(describe_energies(compositions, energy))
        subtracted = compositions.counts @ np.array([sae[z] for z in compositions.elements])
        energy_unit = find_energy_unit(compositions, compositions.mean(energy) + subtracted)
    if forces.rms is not None:
        texts.append(f"forces rms {forces.rms:.3g} eV/Å")
    return "; ".join(texts), unit_hints(energy_unit, forces)


def describe_energies(compositions: Compositions, residual: Floats) -> str:
    """Return the range and RMS of the energies (B,) less reference energies, and the composition that fits worst."""
    per_atom = residual / compositions.counts.sum(axis=1)[compositions.index]
    mean = compositions.mean(residual)
    worst = int(np.abs(mean).argmax())
    number = int(compositions.structures[worst])
    rms = float(np.sqrt(np.mean(np.square(residual))))
    return (
        f"energies after subtracting reference energies {per_atom.min():.3g} to {per_atom.max():.3g} eV/atom, rms "
        f"{rms:.3g} eV; worst composition {compositions.formula(worst)}, mean {mean[worst]:.3g} eV, "
        f"{number:,} structure{'s' if number > 1 else ''}"
    )
