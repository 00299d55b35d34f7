"""Reading of npz files, structure by structure, without loading whole arrays.

Three layouts are read: arrays with one row per structure, in which atomic number 0 pads smaller structures; the same
with one list of atomic numbers for all structures, as in MD17; and the atoms of all structures one after the other,
with the number of atoms of each.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.conversion.names import Names
from aimnet2mult.data.npz import NpzArray
from aimnet2mult.errors import DataError

__all__ = ["is_periodic", "read_npz"]

Array = npt.NDArray[Any]

COUNTS = ("natoms", "n_atoms", "num_atoms")
"""Names of the array with the number of atoms of each structure."""

PERIODIC = ("pbc", "cell", "cells", "lattice")
"""Names of arrays that are not zero for periodic structures."""


class Rows:
    """An array in an npz file, whose rows are read one after the other.

    Args:
        path: The npz file.
        name: Name of the array.

    Raises:
        DataError: It is damaged, or contains Python objects, which could execute code.
    """

    def __init__(self, path: Path, name: str) -> None:
        try:
            self._array = NpzArray(path, name)
        except ValueError as error:
            raise DataError(f"{name!r} {error}") from None
        self.shape = self._array.shape
        self._next = 0

    def read(self, count: int) -> Array:
        """Return the next rows."""
        self._next += count
        return self._array[self._next - count : self._next]


def is_periodic(path: Path) -> bool:
    """Return whether any structure is periodic, according to ``pbc`` or, without it, the cells."""
    with zipfile.ZipFile(path) as file:
        found = next((name for name in PERIODIC if f"{name}.npy" in file.namelist()), None)
        if found is None:
            return False
        with file.open(f"{found}.npy") as stream:
            return bool(np.lib.format.read_array(stream, allow_pickle=False).any())


def read_npz(path: Path, names: Names) -> Iterator[Mapping[str, Array]]:
    """Yield the values of each structure by name, without padding.

    Raises:
        DataError: The layout is none of those above, or an array contains Python objects.
    """
    with zipfile.ZipFile(path) as file:
        members = [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]
    try:
        resolved = names.resolve(members)
        used = {*resolved.values(), *(name for name in COUNTS if name in members)}
        arrays = {name: Rows(path, name) for name in sorted(used)}
        names.require(("coord", "numbers"), resolved)
        yield from _structures(arrays, resolved)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _structures(arrays: Mapping[str, Rows], resolved: Mapping[str, str]) -> Iterator[Mapping[str, Array]]:
    """Yield the structures of the layout that the shapes of the arrays indicate."""
    coord, numbers = arrays[resolved["coord"]], arrays[resolved["numbers"]]
    counts = next((arrays[name].read(arrays[name].shape[0]) for name in COUNTS if name in arrays), None)
    rows = {name: array for name, array in arrays.items() if name in resolved.values()}
    if len(coord.shape) == 2 and counts is not None:  # noqa: PLR2004 - atoms and components
        yield from _consecutive(rows, counts.astype(np.int64).ravel(), coord.shape[0])
        return
    if len(coord.shape) != 3:  # noqa: PLR2004 - structures, atoms and components
        raise DataError(
            f"{resolved['coord']!r} has shape {coord.shape}; expected (structures, atoms, 3), or (atoms, 3) with the "
            f"number of atoms of each structure in {COUNTS[0]!r}"
        )
    shared = numbers.read(numbers.shape[0]) if len(numbers.shape) == 1 else None
    if shared is not None:
        del rows[resolved["numbers"]]
    _check_lengths(rows, {coord.shape[0]})
    for _ in range(coord.shape[0]):
        values = {name: array.read(1)[0] for name, array in rows.items()}
        if shared is not None:
            values[resolved["numbers"]] = shared
        yield _without_padding(values, values[resolved["numbers"]])


def _consecutive(arrays: Mapping[str, Rows], counts: Array, atoms: int) -> Iterator[Mapping[str, Array]]:
    if counts.sum() != atoms or (counts < 0).any():
        raise DataError(f"the numbers of atoms add up to {counts.sum():,}, but there are {atoms:,} coordinates")
    _check_lengths(arrays, {len(counts), atoms})
    for count in counts.tolist():
        yield {
            name: array.read(count) if array.shape[0] == atoms else array.read(1)[0] for name, array in arrays.items()
        }


def _check_lengths(arrays: Mapping[str, Rows], expected: set[int]) -> None:
    for name, array in arrays.items():
        if not array.shape or array.shape[0] not in expected:
            raise DataError(f"{name!r} has shape {array.shape}; expected {' or '.join(map(str, expected))} rows")


def _without_padding(values: Mapping[str, Array], numbers: Array) -> Mapping[str, Array]:
    if numbers.dtype.kind not in "iuf" or numbers.all():
        return values
    return {name: value[numbers != 0] if value.shape[:1] == numbers.shape else value for name, value in values.items()}
