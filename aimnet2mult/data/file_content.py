"""What one pass over a data file finds, so that nothing has to be read again to prepare a training. Without torch."""

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import MAX_ELEMENT, Compositions, count_compositions
from aimnet2mult.data.crc import combine_crc, repeat_crc
from aimnet2mult.data.file_format import OPTIONAL_INPUTS, array_type
from aimnet2mult.data.places import Segment
from aimnet2mult.data.report import Report
from aimnet2mult.quantities import INPUTS, Label

__all__ = ["ArrayContent", "ContentScan", "FileContent", "GroupContent"]

Array = npt.NDArray[Any]

UNKNOWN = -1
"""Frame of structures without one."""


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

    def segments(self, path: Path) -> list[Segment]:
        """Return the groups with their places in a file."""
        starts = np.cumsum([0, *(group.rows for group in self.groups)]).tolist()
        return [
            Segment(path, group.name, group.rows, self.frames[start : start + group.rows] if len(self.frames) else None)
            for group, start in zip(self.groups, starts, strict=False)
        ]

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Which structures are not bad (rows,)."""
        good = np.ones(self.rows, np.bool_)
        good[self.bad] = False
        return good

    def compositions(self, structures: npt.NDArray[np.bool_]) -> Compositions:
        """Return the compositions of some structures (rows,)."""
        whole = Compositions(
            elements=self.elements, counts=self.counts.astype(np.float64), index=self.composition.astype(np.int64)
        )
        return whole.select(structures)

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
        starts = np.cumsum([0, *(group.rows for group in self.groups)])
        bad = np.diff(np.searchsorted(self.bad, starts)).tolist()
        for group, number in zip(self.groups, bad, strict=True):
            yield group, group.rows - number * without_bad


class ContentScan:
    """The content of a file, collected block by block.

    Args:
        labels: Labels that are read.
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = {label.name for label in labels}
        self._groups: list[GroupContent] = []
        self._good: list[npt.NDArray[np.bool_]] = []
        self._energies: list[npt.NDArray[np.float64]] = []
        self._frames: list[npt.NDArray[np.int64]] = []
        self._compositions: list[tuple[int, Array, npt.NDArray[np.int32]]] = []
        self._squares, self._components = (0.0, 0.0), (0, 0)

    def start(self, name: str, atoms: int, rows: int, frames: npt.NDArray[np.int64] | None = None) -> None:
        """Start with the next group; structures that are not added are bad."""
        self._groups.append(GroupContent(name=name, atoms=atoms, rows=rows))
        self._good.append(np.zeros(rows, np.bool_))
        self._energies.append(np.full(rows, np.nan))
        self._frames.append(np.full(rows, UNKNOWN) if frames is None else frames)

    def add(self, start: int, block: Mapping[str, Array], bad: npt.NDArray[np.bool_]) -> None:
        """Add structures of the group.

        Args:
            start: Row of the first one.
            block: The arrays in the file, in units and types of the training, with NaN for infinite labels.
            bad: Which structures must not be trained on, (b,).
        """
        rows = slice(start, start + len(bad))
        self._good[-1][rows] = ~bad
        if "energy" in block:
            self._energies[-1][rows] = block["energy"]
        for key, values in block.items():
            self._add_array(key, np.ascontiguousarray(values), bad)
        numbers = block["numbers"]
        unique, index = count_compositions(np.where((numbers > 0) & (numbers <= MAX_ELEMENT), numbers, 0))
        first = sum(group.rows for group in self._groups[:-1]) + start
        self._compositions.append((first, unique, index))
        if "forces" in block:
            self._add_forces(block["forces"], numbers != 0, bad)

    def _add_array(self, key: str, values: Array, bad: npt.NDArray[np.bool_]) -> None:
        found = self._groups[-1].arrays.setdefault(key, ArrayContent())
        good = values[~bad] if bad.any() else values
        whole_crc, good_crc = found.crcs
        same = good is values and whole_crc == good_crc
        whole_crc = zlib.crc32(values.data, whole_crc)
        found.crcs = whole_crc, whole_crc if same else zlib.crc32(good.data, good_crc)
        if key in self._labels and not all(found.finite):
            finite = (
                found.finite[0] or bool(np.isfinite(values).any()),
                found.finite[1] or bool(np.isfinite(good).any()),
            )
            found.finite = finite

    def _add_forces(self, forces: Array, is_atom: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_]) -> None:
        squares, components = [*self._squares], [*self._components]
        for index, mask in enumerate((is_atom, is_atom & ~bad[:, None])):
            present = forces[mask].astype(np.float64)
            squares[index] += float(np.nansum(np.square(present)))
            components[index] += int(np.isfinite(present).sum())
        self._squares, self._components = (squares[0], squares[1]), (components[0], components[1])

    def finish(self, hashes: Iterable[npt.NDArray[np.uint64]] = (), report: Report | None = None) -> FileContent:
        """Return the content of the file.

        Args:
            hashes: Hashes of the structures that are not bad.
            report: The checks of the file.
        """
        elements: tuple[int, ...] = ()
        counts = np.empty((0, 0), np.uint16)
        good = np.concatenate([np.empty(0, np.bool_), *self._good])
        composition = np.zeros(len(good), np.uint32)
        if self._compositions:
            joined = Compositions.join((unique, index) for _, unique, index in self._compositions)
            elements, counts = joined.elements, joined.counts.astype(np.uint16)
            added = 0
            for first, _, index in self._compositions:
                composition[first : first + len(index)] = joined.index[added : added + len(index)]
                added += len(index)
        frames = np.concatenate([np.empty(0, np.int64), *self._frames])
        return FileContent(
            groups=tuple(self._groups),
            bad=np.flatnonzero(~good).astype(np.uint32),
            energy=np.concatenate([np.empty(0), *self._energies]),
            composition=composition,
            elements=elements,
            counts=counts,
            frames=frames if (frames != UNKNOWN).any() else frames[:0],
            hashes=np.concatenate([np.empty(0, np.uint64), *hashes]),
            force_squares=self._squares,
            force_components=self._components,
            report=report or Report(),
        )
