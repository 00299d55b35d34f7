"""The checks of one file, block by block, and its summary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.duplicates import hash_structures
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.labels import MAX_FLOAT32, is_infinite, is_missing
from aimnet2mult.data.layout import SizeGroup, read_rows
from aimnet2mult.data.outliers import (
    MAX_WORST,
    Compositions,
    energy_residuals,
    find_energy_outliers,
    find_force_outliers,
)
from aimnet2mult.data.places import Places, Segment, place
from aimnet2mult.data.report import FileSummary, Report
from aimnet2mult.data.structures import MAX_ELEMENT, count_electrons, find_bad, find_misfits
from aimnet2mult.errors import DataError

__all__ = ["FileScan"]

Block = dict[str, npt.NDArray[Any]]


class FileScan:
    """The checks of one file; problems are added to a report.

    Args:
        path: The file.
        labels: Labels to check.
        file_format: Names and units of the arrays.
        min_distance: Smallest distance between two atoms, in Å.
        report: Report to add problems to.
    """

    def __init__(
        self, path: Path, labels: Sequence[str], file_format: FileFormat, min_distance: float, report: Report
    ) -> None:
        self.path = path
        self.labels = labels
        self.file_format = file_format
        self.summary = FileSummary(path=str(path))
        self.segments: list[Segment] = []
        self._min_distance = min_distance
        self._report = report
        self._parts: dict[str, list[npt.NDArray[Any]]] = {}
        self._compositions = Compositions()
        self._elements: set[int] = set()
        self._force_squares = 0.0
        self._force_components = 0
        self._infinite: dict[str, list[tuple[int, str]]] = {}

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Whether each structure, in the order of the file, has no problem."""
        return self._joined("good", np.bool_)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Hash of each structure; meaningless for those with problems."""
        return self._joined("hashes", np.uint64)

    def read(self, group: SizeGroup) -> None:
        """Read and check the rows of a group."""
        self.segments.append(Segment(self.path, group.name, group.rows))
        self.summary.groups += 1
        damaged: set[str] = set()
        for rows in group.blocks():
            block: Block = {}
            for key in group.arrays.keys() - damaged:
                try:
                    block[key] = read_rows(group, key, rows, self.file_format)
                except DataError as error:
                    damaged.add(key)
                    self._report.errors.add("damaged arrays", [str(error)])
            if {"numbers", "coord"} <= block.keys():
                self._check(group.name, rows.start, block)
        for label in group.arrays.keys() & set(self.labels):
            self.summary.labels.setdefault(label, 0)

    def finish(self) -> None:
        """Complete the summary, and look for outliers."""
        summary = self.summary
        summary.elements = sorted(self._elements)
        for label, found in self._infinite.items():
            places = "; ".join(where for _, where in found[:3])
            count = sum(number for number, _ in found)
            self._report.warnings.add(
                "infinite labels",
                [f"{self.path}: {count:,} values of {label} are infinite and treated as missing ({places})"],
            )
        if self._force_components:
            summary.force_rms = float(np.sqrt(self._force_squares / self._force_components))
        self._find_outliers()

    def _check(self, group: str, start: int, block: Block) -> None:
        """Check a block of structures, whose first one is in row ``start``."""
        bad = np.zeros(len(block["numbers"]), np.bool_)
        for finding in find_bad(block, self._min_distance):
            rows = np.flatnonzero(finding.rows)
            self._report.add_bad(self.path, group, finding.kind, start + rows, map(finding.describe, rows.tolist()))
            bad |= finding.rows
        self._mask_infinite(group, start, block)
        self.summary.structures += len(bad)
        self.summary.bad_structures += int(bad.sum())
        good = {key: values[~bad] for key, values in block.items()} if bad.any() else block
        for name, values in self._measure(good).items():
            self._append(name, values, ~bad)
        self._parts.setdefault("good", []).append(~bad)
        if "mult" in block:
            self._warn_of_misfits(group, start + np.flatnonzero(~bad), good)

    def _measure(self, block: Block) -> Block:
        """Add good structures to the summary, and return what is kept of each."""
        numbers = block["numbers"]
        is_atom = numbers != 0
        atoms = is_atom.sum(axis=1)
        self.summary.atoms += int(atoms.sum())
        self._elements |= set(np.unique(numbers).astype(int).tolist()) - {0}
        for label in set(self.labels) & block.keys():
            labeled = int((~is_missing(block[label], is_atom)).sum())
            self.summary.labels[label] = self.summary.labels.get(label, 0) + labeled
        kept = {"hashes": hash_structures(block), "atoms": atoms.astype(np.float32)}
        kept["composition"] = self._compositions.add(numbers, MAX_ELEMENT)
        kept["energy"] = block["energy"].astype(np.float64) if "energy" in block else np.full(len(atoms), np.nan)
        kept["force"] = np.full(len(atoms), np.nan, np.float32)
        if "forces" in block:
            squares = np.where(is_atom[..., None], block["forces"].astype(np.float64), np.nan) ** 2
            known = np.isfinite(squares)
            self._force_squares += float(squares[known].sum())
            self._force_components += int(known.sum())
            largest = np.sqrt(np.fmax.reduce(squares.sum(axis=2), axis=1))
            kept["force"] = np.minimum(largest, MAX_FLOAT32).astype(np.float32)
        return kept

    def _append(self, name: str, values: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> None:
        """Keep values of the good structures of a block, and placeholders for the others."""
        whole = np.full(len(good), np.nan if values.dtype.kind == "f" else 0, values.dtype)
        whole[good] = values
        self._parts.setdefault(name, []).append(whole)

    def _joined(self, name: str, dtype: Any) -> npt.NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *self._parts.get(name, [])])

    def _mask_infinite(self, group: str, start: int, block: Block) -> None:
        """Treat infinite labels, also those beyond float32, as missing, and remember where they are."""
        for label in set(self.labels) & block.keys():
            infinite = is_infinite(block[label])
            if infinite.any():
                rows = np.flatnonzero(infinite.any(axis=tuple(range(1, infinite.ndim))))
                found = self._infinite.setdefault(label, [])
                places = [place(self.path, group, start + row).split(", ", 1)[1] for row in rows[:3].tolist()]
                found.append((int(infinite.sum()), "; ".join(places)))
                block[label] = np.where(infinite, np.nan, block[label])

    def _warn_of_misfits(self, group: str, rows: npt.NDArray[np.int64], block: Block) -> None:
        found = np.flatnonzero(find_misfits(block))
        electrons = count_electrons(block)
        self._report.warnings.add(
            "charges and multiplicities that contradict the number of electrons",
            (
                f"{place(self.path, group, int(rows[i]))}: mult {block['mult'][i]:g} is impossible with "
                f"{electrons[i]:g} electrons; check charge and mult"
                for i in found
            ),
            count=len(found),
        )

    def _find_outliers(self) -> None:
        energy = energy_residuals(
            self._joined("energy", np.float64), self._joined("composition", np.int32), self._compositions
        )
        if np.isfinite(energy).any():
            per_atom = energy / self._joined("atoms", np.float32)
            self.summary.energy_per_atom = (float(np.nanmin(per_atom)), float(np.nanmax(per_atom)))
        worst, deviation = find_energy_outliers(energy)
        self._warn_of_outliers(
            "energies",
            worst,
            deviation,
            "energy outlier, {:.4g} eV from the median after subtraction of atomic energies",
        )
        force = self._joined("force", np.float32)
        self._warn_of_outliers("forces", find_force_outliers(force), force, "force outlier, {:.4g} eV/Å")

    def _warn_of_outliers(self, what: str, worst: npt.NDArray[np.int64], values: Any, text: str) -> None:
        places = Places(self.segments)
        self._report.warnings.add(
            f"outliers in {what} of {self.path}",
            (
                f"{where}: {text.format(values[number])}"
                for number, where in zip(worst, map(places.describe, worst), strict=True)
            ),
            count=len(worst),
            limit=MAX_WORST,
        )
