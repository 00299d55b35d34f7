"""What is kept of each structure of a file, to look for outliers, wrong units and duplicates once all are read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions
from aimnet2mult.data.duplicates import hash_structures
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.label_summary import describe_energies
from aimnet2mult.data.labels import MAX_FLOAT32
from aimnet2mult.data.outliers import MAX_WORST, find_energy_outliers, find_force_outliers, robust_residuals
from aimnet2mult.data.places import Places
from aimnet2mult.data.reference_energies import fit_compositions
from aimnet2mult.data.report import FileSummary, Report
from aimnet2mult.data.unit_hints import (
    ForceEvidence,
    find_coord_unit,
    find_energy_unit,
    find_precision_loss,
    shortest_distances,
    unit_hints,
)

__all__ = ["FileEvidence"]

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KCAL_PER_EV = 23.060547830619
"""One eV/particle in kcal/mol."""


class FileEvidence:
    """What is kept of the structures of a file that are not bad."""

    def __init__(self) -> None:
        self.hashes: list[npt.NDArray[np.uint64]] = []
        self._stored_energies: list[Array] = []
        self._largest_forces: list[npt.NDArray[np.float32]] = []
        self._forces = ForceEvidence()
        self._distances: list[Floats] = []

    def add(self, block: Mapping[str, Array], stored_energy: Array | None) -> None:
        """Add structures.

        Args:
            block: Their arrays, in the units of the training.
            stored_energy: Their energies (b,), as stored in the file; None if there are none.
        """
        is_atom = block["numbers"] != 0
        self.hashes.append(hash_structures(block))
        self._stored_energies.append(np.full(len(is_atom), np.nan) if stored_energy is None else stored_energy)
        self._distances.append(shortest_distances(block))
        self._largest_forces.append(np.full(len(is_atom), np.nan, np.float32))
        if "forces" in block:
            self._forces.add(block)
            squares = np.square(block["forces"].astype(np.float64)).sum(axis=2)
            largest = np.sqrt(np.fmax.reduce(np.where(is_atom, squares, np.nan), axis=1))
            self._largest_forces[-1] = np.minimum(largest, MAX_FLOAT32).astype(np.float32)

    def conclude(self, content: FileContent, summary: FileSummary, report: Report, *, energy_factor: float) -> None:
        """Complete a summary, and warn of outliers and of units that are probably wrong.

        Args:
            content: The content of the file.
            summary: The summary of the file.
            report: Report to add warnings to.
            energy_factor: Factor from the unit of the energies in the file to eV.
        """
        if not self.hashes:
            return
        rows = np.flatnonzero(content.good)
        compositions, energy = content.compositions(content.good), content.energy[rows]
        summary.elements = list(compositions.elements)
        summary.force_rms = self._forces.rms
        known = np.isfinite(energy)
        places = Places(content.segments(Path(summary.path)))
        energy_unit = None
        if known.any():
            compositions, energy = compositions.select(known), energy[known]
            summary.energies = _describe(compositions, energy)
            if loss := find_precision_loss(self._stored_energies, KCAL_PER_EV * energy_factor):
                report.warn_of_labels(summary.path, [loss])
            worst, deviation = find_energy_outliers(robust_residuals(compositions, energy))
            text = "energy outlier, {:.4g} eV from the median after subtracting a sum over atoms"
            lines = _outlier_lines(places, rows[known][worst], deviation[worst], text)
            report.warnings.add(f"outliers in energies of {summary.path}", lines, len(worst), limit=MAX_WORST)
            energy_unit = find_energy_unit(compositions, compositions.mean(energy))
        report.warn_of_labels(summary.path, unit_hints(energy_unit, self._forces, find_coord_unit(self._distances)))
        forces = np.concatenate(self._largest_forces)
        outliers = find_force_outliers(forces)
        lines = _outlier_lines(places, rows[outliers], forces[outliers], "force outlier, {:.4g} eV/Å")
        report.warnings.add(f"outliers in forces of {summary.path}", lines, len(outliers), limit=MAX_WORST)


def _describe(compositions: Compositions, energy: Floats) -> str:
    """Describe energies in eV after subtracting fitted reference energies."""
    sae = fit_compositions(compositions, energy)
    sums = compositions.counts @ [sae[z] for z in compositions.elements]
    return describe_energies(compositions, energy - sums[compositions.index])


def _outlier_lines(places: Places, rows: Rows, values: Array, text: str) -> Iterator[str]:
    for row, value in zip(rows.tolist(), values, strict=True):
        yield f"{places.describe(row)}: {text.format(value)}"
