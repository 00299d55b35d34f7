"""What one pass over a data file finds, so that nothing has to be read again to prepare a training. Without torch."""

import math
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions
from aimnet2mult.data.crc import combine_crc, repeat_crc
from aimnet2mult.data.file_format import OPTIONAL_INPUTS, array_type
from aimnet2mult.data.places import Segment
from aimnet2mult.data.report import Report
from aimnet2mult.quantities import INPUTS, Label

__all__ = ["ArrayContent", "FileContent", "GroupContent"]

Array = npt.NDArray[Any]


@dataclass(kw_only=True)
class ArrayContent:
    """What is known of an array as it is read; each pair is for all structures, and for those that are not bad."""

    crcs: tuple[int, int] = (0, 0)
    """CRC-32 of the bytes."""
    finite: tuple[bool, bool] = (False, False)
    """Whether any value is finite; of labels only."""


@dataclass(kw_only=True)
class GroupContent:
    """What is known of a group."""

    name: str
    atoms: int
    """Number of atoms, including padding."""
    rows: int
    """Number of structures, including bad ones."""
    arrays: dict[str, ArrayContent] = field(default_factory=dict)
    """The inputs and labels in the file."""

    def array_crc(self, key: str, label: Label | None, rows: int, *, without_bad: bool) -> tuple[int, int]:
        """Return CRC-32 and number of bytes of an input or label; one that is not in the file has a default.

        Args:
            key: The input or label.
            label: The label, if it is one.
            rows: Number of structures.
            without_bad: Whether bad structures are left out.
        """
        shape: tuple[int, ...] = {"coord": (rows, self.atoms, 3), "numbers": (rows, self.atoms)}.get(key, (rows,))
        size = math.prod(shape if label is None else label.shape(rows, self.atoms))
        default = array_type(key).type(OPTIONAL_INPUTS.get(key, np.nan if label else 0))
        found = self.arrays.get(key)
        crc = repeat_crc(default.tobytes(), size) if found is None else found.crcs[without_bad]
        return crc, size * default.itemsize


@dataclass(frozen=True, kw_only=True, eq=False)
class FileContent:
    """What one pass over a file finds; ``rows`` counts the structures of all its groups, including bad ones."""

    groups: tuple[GroupContent, ...]
    """The groups, by number of atoms, in the order in which the structures are counted."""
    bad: npt.NDArray[np.uint32]
    """Structures that must not be trained on, in ascending order."""
    energy: npt.NDArray[np.float64]
    """Energies in eV (rows,); NaN if missing."""
    composition: npt.NDArray[np.uint32]
    """Composition of each structure (rows,)."""
    elements: tuple[int, ...]
    """Atomic numbers, in ascending order."""
    counts: npt.NDArray[np.uint16]
    """Number of atoms of each element in each composition, (compositions, elements)."""
    frames: npt.NDArray[np.int64]
    """Number of each structure in the data that the file was converted from, -1 if unknown; empty if all are."""
    hashes: npt.NDArray[np.uint64]
    """Hash of each structure that is not bad, to find duplicates; empty if the file has not been checked."""
    force_squares: tuple[float, float] = (0.0, 0.0)
    """Sum of the squares of the force components in (eV/Å)²: of all structures, and of those that are not bad."""
    force_components: tuple[int, int] = (0, 0)
    """Number of these components."""
    report: Report = field(default_factory=Report)
    """The checks of this file alone."""

    @property
    def rows(self) -> int:
        """Number of structures, including bad ones."""
        return sum(group.rows for group in self.groups)

    def slices(self) -> Iterator[tuple[GroupContent, slice]]:
        """Yield each group with the slice of its structures in those of the file."""
        start = 0
        for group in self.groups:
            yield group, slice(start, start + group.rows)
            start += group.rows

    def without_details(self) -> "FileContent":
        """Return what is needed to load the data, without what is only needed to check them."""
        return replace(self, hashes=self.hashes[:0], frames=self.frames[:0], report=Report())

    def segments(self, path: Path) -> list[Segment]:
        """Return the groups with their places in a file."""
        return [
            Segment(path, group.name, group.rows, self.frames[rows] if len(self.frames) else None)
            for group, rows in self.slices()
        ]

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Which structures are not bad (rows,)."""
        good = np.ones(self.rows, np.bool_)
        good[self.bad] = False
        return good

    def compositions(self, structures: npt.NDArray[np.bool_]) -> Compositions:
        """Return the compositions of some structures (rows,)."""
        index = self.composition[structures].astype(np.int64)
        whole = Compositions(elements=self.elements, counts=self.counts.astype(np.float64), index=index)
        return whole.select(np.ones(len(index), np.bool_))

    def with_others(self, elements: Collection[int]) -> npt.NDArray[np.bool_]:
        """Return which structures have elements other than some (rows,)."""
        others = [index for index, z in enumerate(self.elements) if z not in elements]
        has_others: npt.NDArray[np.bool_] = self.counts[:, others].sum(axis=1) > 0
        return has_others[self.composition]

    def known(self, label: str, *, without_bad: bool) -> bool:
        """Return whether a structure has a finite value of a label."""
        return any(group.arrays[label].finite[without_bad] for group in self.groups if label in group.arrays)

    def checksum(self, labels: Iterable[Label], fidelity: int, *, without_bad: bool) -> int:
        """Return the CRC-32 of all inputs and labels as read, with the names of the arrays."""
        by_name = {label.name: label for label in labels}
        constant = np.int64(fidelity).tobytes()
        crc = 0
        for group, rows in self._sizes(without_bad):
            for key in sorted([*INPUTS, *by_name, "fidelity"]):
                own, length = repeat_crc(constant, rows), rows * len(constant)
                if key != "fidelity":
                    own, length = group.array_crc(key, by_name.get(key), rows, without_bad=without_bad)
                crc = combine_crc(zlib.crc32(key.encode(), crc), own, length)
        return crc

    def input_checksum(self, *, without_bad: bool) -> int:
        """Return the CRC-32 of the inputs as read: that of `FileSplit`."""
        crc = 0
        for group, rows in self._sizes(without_bad):
            for key in INPUTS:
                crc = combine_crc(crc, *group.array_crc(key, None, rows, without_bad=without_bad))
        return crc

    def _sizes(self, without_bad: bool) -> Iterator[tuple[GroupContent, int]]:
        """Yield each group with its number of structures."""
        for group, rows in self.slices():
            first, end = np.searchsorted(self.bad, (rows.start, rows.stop)).tolist()
            yield group, group.rows - (end - first) * without_bad
