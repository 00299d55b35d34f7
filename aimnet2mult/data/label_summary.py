"""What remains of the energies after subtracting reference energies, and how large the forces are. Needs only NumPy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions

if TYPE_CHECKING:
    from aimnet2mult.data.file_content import FileContent

__all__ = ["Summary", "describe_energies", "summarize"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """What some structures contain."""

    compositions: Compositions
    """Compositions of all structures, without their index."""
    structures: Floats
    """Number of structures with each composition (M,)."""
    text: str
    """Line that describes energies and forces; empty if there are none."""
    mean_energy: float
    """Mean energy less the reference energies, in eV/atom; 0 without energies."""

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers of all elements."""
        return frozenset(self.compositions.elements)


def summarize(
    parts: Iterable[tuple["FileContent", bool, npt.NDArray[np.bool_]]], references: Mapping[int, float]
) -> Summary:
    """Return a summary of structures.

    Args:
        parts: Contents of files, whether bad structures are left out, and which structures are meant.
        references: Reference energies; without any, energies are missing.
    """
    energies: list[Floats] = []
    found: list[Compositions] = []
    squares, components = 0.0, 0
    for content, without_bad, structures in parts:
        energies.append(content.energy[structures])
        found.append(content.compositions(structures))
        squares += content.force_squares[without_bad]
        components += content.force_components[without_bad]
    # Copies of the arrays of all structures would determine the peak memory of every rank.
    compositions = found.pop() if len(found) == 1 else Compositions.join(each.counted() for each in found)
    energy = energies.pop() if len(energies) == 1 else np.concatenate(energies)
    found.clear()
    energies.clear()
    known = np.isfinite(energy) if references else np.zeros(len(energy), np.bool_)
    texts, mean = [], 0.0
    if known.any():
        used = compositions if known.all() else compositions.select(known)
        sums = used.counts @ [references[z] for z in used.elements]
        residual = energy if known.all() else energy[known]
        residual -= sums[used.index]
        residual[:] = residual.astype(np.float32)
        texts.append(describe_energies(used, residual))
        mean = float(np.mean(residual / used.counts.sum(axis=1)[used.index]))
    if components:
        texts.append(f"forces rms {(squares / components) ** 0.5:.3g} eV/Å")
    return Summary(
        compositions=replace(compositions, index=compositions.index[:0]),
        structures=compositions.structures,
        text="; ".join(texts),
        mean_energy=mean,
    )


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
