"""Structures grouped by composition: the number of atoms of each element. Needs only NumPy."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_ELEMENT", "SYMBOLS", "Compositions", "count_compositions", "join_symbols", "unique_rows"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Array = npt.NDArray[Any]

SYMBOLS = (
    *("X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K"),
    *("Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr"),
    *("Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La"),
    *("Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os"),
    *("Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am"),
    *("Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl"),
    *("Mc", "Lv", "Ts", "Og"),
)
"""Symbols of the elements by atomic number; 0 is padding."""
MAX_ELEMENT = len(SYMBOLS) - 1
"""Largest atomic number."""


@dataclass(frozen=True, kw_only=True)
class Compositions:
    """The M different compositions of B structures with E elements."""

    elements: tuple[int, ...]
    """Atomic numbers, in ascending order."""
    counts: Floats
    """Number of atoms of each element in each composition, (M, E)."""
    index: npt.NDArray[np.int64]
    """Composition of each structure, (B,)."""

    @classmethod
    def of(cls, numbers: Iterable[Ints]) -> Self:
        """Return the compositions of structures.

        Args:
            numbers: arrays (b, n) of atomic numbers with 0 for padding, at least one; their structures are counted
                through. Only one array is needed at a time, so they can be read from a file one by one.
        """
        return cls.join(map(count_compositions, numbers))

    @classmethod
    def join(cls, parts: Iterable[tuple[Array, npt.NDArray[np.int32] | npt.NDArray[np.int64]]]) -> Self:
        """Return the compositions of structures from the results of `count_compositions`, at least one."""
        rows: list[Array] = []
        positions: list[npt.NDArray[np.int64]] = []
        for part, position in parts:
            positions.append(position + np.int64(sum(map(len, rows))))
            rows.append(part)
        unique, index = unique_rows(np.concatenate(rows))
        present = np.flatnonzero(unique.any(axis=0))
        return cls(
            elements=tuple(present.tolist()),
            counts=unique[:, present].astype(np.float64),
            index=index[np.concatenate(positions)],
        )

    def select(self, structures: npt.NDArray[np.bool_]) -> Self:
        """Return the compositions of some of the structures (B,)."""
        index = self.index[structures]
        used = np.flatnonzero(np.bincount(index, minlength=len(self.counts)))
        positions = np.zeros(len(self.counts), np.int64)
        positions[used] = np.arange(len(used))
        counts = self.counts[used]
        present = np.flatnonzero(counts.any(axis=0))
        return type(self)(
            elements=tuple(self.elements[i] for i in present), counts=counts[:, present], index=positions[index]
        )

    def counted(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return compositions and index as `count_compositions` does, for `join`."""
        counts = np.zeros((len(self.counts), len(SYMBOLS)), np.uint16)
        counts[:, list(self.elements)] = self.counts
        return counts, self.index

    @property
    def structures(self) -> Floats:
        """Number of structures with each composition, (M,)."""
        return np.bincount(self.index, minlength=len(self.counts)).astype(np.float64)

    def mean(self, values: Floats) -> Floats:
        """Return the mean of ``values`` (B,) over the structures with each composition, (M,)."""
        return np.bincount(self.index, weights=values, minlength=len(self.counts)) / self.structures

    def median(self, values: Floats) -> Floats:
        """Return the median of ``values`` (B,) over the structures with each composition, (M,)."""
        ordered = values[np.lexsort((values, self.index))]
        number = self.structures.astype(np.int64)
        first = np.cumsum(number) - number
        middle: Floats = (ordered[first + (number - 1) // 2] + ordered[first + number // 2]) / 2
        return middle

    def formula(self, composition: int) -> str:
        """Return the formula of a composition, such as ``C2H6O``."""
        counts = {SYMBOLS[z]: int(n) for z, n in zip(self.elements, self.counts[composition], strict=True) if n}
        ordered = sorted(counts, key=lambda symbol: (symbol != "C", symbol != "H", symbol))
        return "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in ordered)


def count_compositions(numbers: Array) -> tuple[Array, npt.NDArray[np.int32]]:
    """Return the different compositions of structures with atomic numbers (B, N), and that of each structure, (B,)."""
    unique, inverse = unique_rows(_count_atoms(numbers))
    return unique, inverse.astype(np.int32)


def join_symbols(elements: Iterable[int]) -> str:
    """Return the symbols of elements, separated by commas."""
    return ", ".join(SYMBOLS[z] if z < len(SYMBOLS) else str(z) for z in elements)


def unique_rows(rows: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the unique rows of a matrix (B, K), and for each row its position among them, (B,)."""
    # np.unique compares whole rows as bytes much faster than with axis=0.
    as_bytes = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    return rows[first], inverse.astype(np.int64, copy=False)


def _count_atoms(numbers: Ints) -> npt.NDArray[np.uint16]:
    counts = np.zeros((len(numbers), len(SYMBOLS)), np.uint16)
    for z in np.unique(numbers):
        if z:
            counts[:, int(z)] = np.count_nonzero(numbers == z, axis=1)
    return counts
