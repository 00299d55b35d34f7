"""Collection of the content of a file, block by block."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import MAX_ELEMENT, Compositions, count_compositions
from aimnet2mult.data.file_content import ArrayContent, FileContent, GroupContent
from aimnet2mult.data.report import Report
from aimnet2mult.quantities import Label

__all__ = ["ContentScan"]

Array = npt.NDArray[Any]

UNKNOWN = -1
"""Frame of structures without one."""


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
