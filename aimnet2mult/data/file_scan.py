"""The checks of one file, block by block, and its summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions
from aimnet2mult.data.content_scan import ContentScan
from aimnet2mult.data.duplicates import hash_structures
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat, array_type
from aimnet2mult.data.label_summary import describe_energies
from aimnet2mult.data.labels import MAX_FLOAT32, InfiniteValues, is_missing
from aimnet2mult.data.layout import SizeGroup, read_frames, read_rows
from aimnet2mult.data.outliers import MAX_WORST, find_energy_outliers, find_force_outliers, robust_residuals
from aimnet2mult.data.places import Places, Segment
from aimnet2mult.data.reference_energies import fit_compositions
from aimnet2mult.data.report import FileSummary, Report
from aimnet2mult.data.structures import count_electrons, find_bad, find_misfits
from aimnet2mult.data.unit_hints import (
    ForceEvidence,
    find_coord_unit,
    find_energy_unit,
    find_precision_loss,
    shortest_distances,
    unit_hints,
)
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["FileScan", "Listener"]

Array = npt.NDArray[Any]
Block = dict[str, Array]

KCAL_PER_EV = 23.060547830619
"""One eV/particle in kcal/mol."""
STATE = (
    *("summary", "report", "done", "_content", "_hashes", "_energies", "_forces"),
    *("_force_evidence", "_distances", "_infinite"),
)
"""Attributes of a scan that change."""


class Listener(Protocol):
    """Receives what a scan reads."""

    def start(self, group: SizeGroup) -> None:
        """Receive the next group."""

    def add(self, block: Mapping[str, Array]) -> None:
        """Receive the next structures of the group, in the units and types of the training; NaN if infinite."""


class FileScan:
    """The checks of one file; problems are added to a report.

    Args:
        path: The file.
        labels: Labels to check.
        file_format: Names and units of the arrays.
        report: Report to add problems to.
        min_distance: Smallest distance between two atoms, in Å.
        max_element: Largest atomic number that the model supports.
    """

    def __init__(
        self,
        path: Path,
        labels: Sequence[Label],
        file_format: FileFormat,
        report: Report,
        *,
        min_distance: float,
        max_element: int,
    ) -> None:
        self.path = path
        self.labels = labels
        self.file_format = file_format
        self.summary = FileSummary(path=str(path))
        self._content = ContentScan(labels)
        self._hashes: list[npt.NDArray[np.uint64]] = []
        """Hashes of the good structures, as all of the following."""
        self._energies: list[Array] = []
        self._forces: list[npt.NDArray[np.float32]] = []
        self._force_evidence = ForceEvidence()
        self._distances: list[npt.NDArray[np.float64]] = []
        self._infinite = InfiniteValues()
        self._min_distance = min_distance
        self._max_element = max_element
        self.report = report
        self.done: dict[str, int] = {}
        """Number of structures read, by group."""

    def state(self) -> dict[str, Any]:
        """Return the attributes that change in the course of the scan; another scan with them continues it."""
        return {name: value for name, value in vars(self).items() if name in STATE}

    def read(self, group: SizeGroup, listener: Listener | None = None) -> None:
        """Read and check the rows of a group, or the rest of them after some have been read before."""
        segment = Segment(self.path, group.name, group.rows, read_frames(group))
        if group.name not in self.done:
            self._content.start(group.name, group.atoms, group.rows, segment.frames)
            self.summary.groups += 1
            self.done[group.name] = 0
        damaged: set[str] = set()
        if listener is not None:
            listener.start(group)
        for rows in group.blocks():
            if rows.start < self.done[group.name]:
                continue
            block = self._read_block(group, rows, damaged)
            if {"numbers", "coord"} <= block.keys():
                read = self._check(segment, rows.start, block)
                self.done[group.name] = rows.stop
                if listener is not None and not damaged:
                    listener.add(read)
        for label in self._labels_in(group.arrays):
            self.summary.labels.setdefault(label, 0)

    def _read_block(self, group: SizeGroup, rows: slice, damaged: set[str]) -> Block:
        """Return rows of the arrays that are not damaged, as stored."""
        block: Block = {}
        for key in [key for key in group.arrays if key not in damaged]:
            try:
                block[key] = read_rows(group, key, rows, self.file_format)
            except DataError as error:
                damaged.add(key)
                self.report.errors.add("damaged arrays", [str(error)])
        return block

    def content(self) -> FileContent:
        """Return what has been found so far."""
        return self._content.finish(self._hashes, self.report)

    def finish(self) -> FileContent:
        """Complete the summary, look for problems of all structures together, and return what has been found."""
        self._warn([*self._infinite.describe()])
        content = self.content()
        if self._hashes:
            self._finish_structures(content)
        return content

    def _check(self, segment: Segment, start: int, block: Block) -> Block:
        """Check a block of structures, whose first one is in row ``start``, and return it as training reads it."""
        stored_energy = block.get("energy")
        block = {key: self.file_format.convert(key, values) for key, values in block.items()}
        bad = np.zeros(len(block["numbers"]), np.bool_)
        for finding in find_bad(block, self._min_distance, self._max_element):
            rows = np.flatnonzero(finding.rows)
            self.report.add_bad(segment, finding.kind, start + rows, map(finding.describe, rows.tolist()))
            bad |= finding.rows
        self._infinite.mask(block, self._labels_in(block), segment.group, start)
        self.summary.structures += len(bad)
        self.summary.bad_structures += int(bad.sum())
        with np.errstate(invalid="ignore", over="ignore"):  # bad values
            read = {key: values.astype(array_type(key), copy=False) for key, values in block.items()}
        self._content.add(start, read, bad)
        good = {key: values[~bad] for key, values in block.items()} if bad.any() else block
        self._energies.append(np.full(len(good["numbers"]), np.nan) if stored_energy is None else stored_energy[~bad])
        self._add(good)
        if "mult" in block:
            _warn_of_misfits(self.report, segment, start + np.flatnonzero(~bad), good)
        return read

    def _add(self, block: Block) -> None:
        """Add good structures to the summary and to what is kept of each."""
        is_atom = block["numbers"] != 0
        self.summary.atoms += int(is_atom.sum())
        for label in (label for label in self.labels if label.name in block):
            missing = is_missing(block[label.name], is_atom, per_atom=label.per_atom)
            self.summary.labels[label.name] = self.summary.labels.get(label.name, 0) + int((~missing).sum())
        self._hashes.append(hash_structures(block))
        self._distances.append(shortest_distances(block))
        self._forces.append(np.full(len(is_atom), np.nan, np.float32))
        if "forces" in block:
            self._force_evidence.add(block)
            squares = np.square(block["forces"].astype(np.float64)).sum(axis=2)
            largest = np.sqrt(np.fmax.reduce(np.where(is_atom, squares, np.nan), axis=1))
            self._forces[-1] = np.minimum(largest, MAX_FLOAT32).astype(np.float32)

    def _labels_in(self, arrays: Mapping[str, object]) -> list[str]:
        return [label.name for label in self.labels if label.name in arrays]

    def _finish_structures(self, content: FileContent) -> None:
        good = content.good
        rows = np.flatnonzero(good)
        compositions, energy = content.compositions(good), content.energy[good]
        self.summary.elements = list(compositions.elements)
        self.summary.force_rms = self._force_evidence.rms
        known = np.isfinite(energy)
        energy_unit = None
        if known.any():
            energy_unit = self._finish_energies(content, rows[known], compositions.select(known), energy[known])
        self._warn(unit_hints(energy_unit, self._force_evidence, find_coord_unit(self._distances)))
        forces = np.concatenate(self._forces)
        outliers = find_force_outliers(forces)
        self._warn_of_outliers(content, "forces", rows[outliers], forces[outliers], "force outlier, {:.4g} eV/Å")

    def _finish_energies(
        self,
        content: FileContent,
        rows: npt.NDArray[np.int64],
        compositions: Compositions,
        energy: npt.NDArray[np.float64],
    ) -> str | None:
        """Describe energies in eV, and return the unit that they seem to have."""
        sae = fit_compositions(compositions, energy)
        residual = energy - (compositions.counts @ [sae[z] for z in compositions.elements])[compositions.index]
        self.summary.energies = describe_energies(compositions, residual)
        if loss := find_precision_loss(self._energies, KCAL_PER_EV * self.file_format.factors.get("energy", 1.0)):
            self._warn([loss])
        worst, deviation = find_energy_outliers(robust_residuals(compositions, energy))
        text = "energy outlier, {:.4g} eV from the median after subtracting a sum over atoms"
        self._warn_of_outliers(content, "energies", rows[worst], deviation[worst], text)
        return find_energy_unit(compositions, compositions.mean(energy))

    def _warn(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.report.warnings.add("labels", [f"{self.path}: {text}"])

    def _warn_of_outliers(self, content: FileContent, what: str, rows: Array, values: Array, text: str) -> None:
        places = Places(content.segments(self.path))
        lines = (f"{places.describe(row)}: {text.format(value)}" for row, value in zip(rows, values, strict=True))
        self.report.warnings.add(f"outliers in {what} of {self.path}", lines, len(rows), limit=MAX_WORST)


def _warn_of_misfits(report: Report, segment: Segment, rows: npt.NDArray[np.int64], block: Block) -> None:
    found = np.flatnonzero(find_misfits(block))
    electrons = count_electrons(block)
    report.warnings.add(
        "charges and multiplicities that contradict the number of electrons",
        (
            f"{segment.describe(int(rows[i]))}: mult {block['mult'][i]:g} is impossible with "
            f"{electrons[i]:g} electrons; check charge and mult"
            for i in found
        ),
        len(found),
    )
