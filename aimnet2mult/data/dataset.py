"""Data sets: structures by size group, which are read by index from files, or are in memory."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.layout import BLOCK_ATOMS
from aimnet2mult.data.reference_energies import sum_references
from aimnet2mult.data.row_store import RowStore
from aimnet2mult.quantities import INPUTS as STORED_INPUTS

__all__ = ["INPUTS", "ArrayGroup", "DataSet", "Group", "Piece", "RowGroup", "Run", "read_blocks"]

INPUTS = (*STORED_INPUTS, "fidelity")
"""Keys of a batch that are passed to the model."""

Arrays = dict[str, npt.NDArray[Any]]
Rows = npt.NDArray[np.integer[Any]]
Run = tuple[int, range]
"""A fidelity, and consecutive rows of a group with it."""

OWN_KEYS = ("fidelity", "origin")
"""Arrays that are not read from files."""


class Group(Protocol):
    """Structures of up to a number of atoms, padded with zeros."""

    @property
    def atoms(self) -> int:
        """Number of atoms, including padding."""
        ...

    @property
    def runs(self) -> Sequence[Run]:
        """The fidelities of the structures, in order."""
        ...

    def __len__(self) -> int:
        """Return the number of structures."""
        ...

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        """Return an array of all structures; other than ``fidelity`` and ``origin``, it may be large."""
        ...

    def row_bytes(self, keys: Sequence[str]) -> int:
        """Return the size of some arrays of a structure in memory."""
        ...

    def select(self, fidelities: Collection[int]) -> "Group | None":
        """Return the structures of some fidelities; None if there are none."""
        ...

    def read(self, rows: Rows, keys: Sequence[str]) -> Arrays:
        """Return new arrays of some structures; all are float32, except for int32 ``numbers`` and int64 `OWN_KEYS`.

        ``energy`` is in eV, less the reference energies; ``origin`` numbers the structures of all files.

        Raises:
            DataError: A file cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Some structures of one group of a file."""

    store: RowStore
    rows: npt.NDArray[np.uint32] | range
    """Rows in the store, in ascending order."""
    fidelity: int
    references: Mapping[int, float] | None
    """Reference energies to subtract; if there are none, energies are missing. None: total energies in float64."""
    start: int
    """Origin of the first row of the store."""

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Rows, keys: Sequence[str]) -> Arrays:
        """Return arrays of the structures at some positions in `rows`, without padding."""
        return self.complete(self._chosen(positions), keys)

    def complete(self, rows: Rows, keys: Sequence[str], stored: Arrays | None = None) -> Arrays:
        """Return arrays of rows of the store, given what `stored_keys` of them are; by default, they are read."""
        arrays = self.store.read(rows, self.stored_keys(keys)) if stored is None else dict(stored)
        if "energy" in keys and self.references is not None:
            energy = np.full(len(rows), np.nan)
            if self.references:
                energy = arrays["energy"] - sum_references(arrays["numbers"], self.references)
            # Precise enough once the reference energies are subtracted.
            arrays["energy"] = energy.astype(np.float32)
        if "fidelity" in keys:
            arrays["fidelity"] = np.full(len(rows), self.fidelity, np.int64)
        if "origin" in keys:
            arrays["origin"] = self.start + rows.astype(np.int64)
        return {key: arrays[key] for key in keys}

    @staticmethod
    def stored_keys(keys: Sequence[str]) -> list[str]:
        """Return which arrays of the store are needed for some arrays."""
        needed = [key for key in keys if key not in OWN_KEYS]
        return [*needed, "numbers"] if "energy" in keys and "numbers" not in keys else needed

    def _chosen(self, positions: Rows) -> Rows:
        if isinstance(self.rows, range):
            shifted: Rows = positions + self.rows.start
            return shifted
        return self.rows[positions]


class RowGroup:
    """A group whose structures are read by index.

    Args:
        pieces: Structures, in order.
        per_atom: Inputs and labels with a value for each atom.
        atoms: Number of atoms, including padding; by default, that of the largest piece.
    """

    def __init__(self, pieces: Sequence[Piece], per_atom: frozenset[str], atoms: int = 0) -> None:
        self.pieces = tuple(pieces)
        self.per_atom = per_atom
        self.atoms = atoms or max(piece.store.atoms for piece in pieces)
        self.starts = np.cumsum([0, *map(len, pieces)])

    @property
    def runs(self) -> list[Run]:
        """The fidelities of the structures, in order."""
        parts = [range(start, end) for start, end in pairwise(self.starts.tolist())]
        return [(piece.fidelity, part) for piece, part in zip(self.pieces, parts, strict=True)]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        return np.concatenate([block[key] for block in read_blocks(self, [key])])

    def read(self, rows: Rows, keys: Sequence[str]) -> Arrays:
        """Return new arrays of some structures, as described in `Group`."""
        rows = np.asarray(rows, np.int64)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        found: Arrays = {}
        for owner in np.unique(owners).tolist() or [0]:
            piece: Piece = self.pieces[owner]
            chosen = owners == owner
            if chosen.all() and piece.store.atoms == self.atoms:
                return piece.read(rows - self.starts[owner], keys)
            arrays = piece.read(rows[chosen] - self.starts[owner], keys)
            found = found or self.empty(len(rows), arrays)
            self.fill(found, np.flatnonzero(chosen), arrays)
        return found

    def select(self, fidelities: Collection[int]) -> "RowGroup | None":
        """Return the structures of some fidelities; None if there are none."""
        pieces = [piece for piece in self.pieces if piece.fidelity in fidelities]
        return RowGroup(pieces, self.per_atom, self.atoms) if pieces else None

    def row_bytes(self, keys: Sequence[str]) -> int:
        """Return the size of some arrays of a structure in memory."""
        return sum(values.nbytes for values in self.empty(1, self.pieces[0].read(np.arange(0), keys)).values())

    def empty(self, rows: int, like: Arrays) -> Arrays:
        """Return arrays of zeros for a number of structures; of those of a piece, only types and shapes are used."""
        shapes = {key: values.shape[1:] for key, values in like.items()}
        shapes |= {key: (self.atoms, *shape[1:]) for key, shape in shapes.items() if key in self.per_atom}
        return {key: np.zeros((rows, *shapes[key]), values.dtype) for key, values in like.items()}

    def fill(self, found: Arrays, rows: Rows | slice, arrays: Arrays) -> None:
        """Copy arrays of a piece to rows of arrays from `empty`."""
        for key, values in arrays.items():
            target = found[key][:, : values.shape[1]] if key in self.per_atom else found[key]
            target[rows] = values


class ArrayGroup:
    """A group in memory.

    Args:
        arrays: The arrays, with at least ``numbers`` and ``fidelity``.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    @property
    def atoms(self) -> int:
        """Number of atoms, including padding."""
        return int(self.arrays["numbers"].shape[1])

    @property
    def runs(self) -> list[Run]:
        """The fidelities of the structures, in order."""
        fidelity = self.arrays["fidelity"]
        changes = np.flatnonzero(np.diff(fidelity, prepend=fidelity[:1] - 1)).tolist()
        return [(int(fidelity[start]), range(start, end)) for start, end in pairwise([*changes, len(fidelity)])]

    def __len__(self) -> int:
        return len(self.arrays["fidelity"])

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        return self.arrays[key]

    def select(self, fidelities: Collection[int]) -> "ArrayGroup | None":
        """Return the structures of some fidelities; None if there are none."""
        rows = np.flatnonzero(np.isin(self.arrays["fidelity"], list(fidelities)))
        return ArrayGroup({key: values[rows] for key, values in self.arrays.items()}) if len(rows) else None

    def row_bytes(self, keys: Sequence[str]) -> int:
        """Return the size of some arrays of a structure in memory."""
        return sum(values[:1].nbytes for values in map(self.arrays.__getitem__, keys))

    def read(self, rows: Rows, keys: Sequence[str]) -> Arrays:
        """Return new arrays of some structures, as described in `Group`."""
        return {key: self.arrays[key][rows] for key in keys}


class DataSet:
    """Structures by size group.

    Args:
        groups: The groups by number of atoms.
        keys: The arrays of every group.
    """

    def __init__(self, groups: Mapping[int, Group], keys: Sequence[str]) -> None:
        self._groups = {size: groups[size] for size in sorted(groups)}
        self.arrays = tuple(keys)

    @classmethod
    def of_arrays(cls, groups: Mapping[int, Arrays]) -> "DataSet":
        """Return a data set in memory; its groups have the same arrays."""
        keys = next(iter(groups.values()), {}).keys()
        return cls({size: ArrayGroup(dict(arrays)) for size, arrays in groups.items()}, list(keys))

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __getitem__(self, size: int) -> Group:
        return self._groups[size]

    def keys(self) -> list[int]:
        """Return the numbers of atoms, in ascending order."""
        return list(self._groups)

    def items(self) -> list[tuple[int, Group]]:
        """Return the groups with their numbers of atoms, in ascending order."""
        return list(self._groups.items())

    @property
    def groups(self) -> list[Group]:
        """The groups, by number of atoms."""
        return list(self._groups.values())

    def select(self, fidelities: Collection[int]) -> "DataSet":
        """Return the structures of some fidelities; arrays in memory are copied."""
        groups = {size: group.select(fidelities) for size, group in self.items()}
        return DataSet({size: group for size, group in groups.items() if group is not None}, self.arrays)

    @property
    def nbytes(self) -> int:
        """Size of all arrays in memory, in bytes."""
        return sum(len(group) * group.row_bytes(self.arrays) for group in self.groups)

    def blocks(self, keys: Sequence[str]) -> Iterator[Arrays]:
        """Yield arrays of all structures, some structures at a time."""
        for group in self.groups:
            yield from read_blocks(group, keys)


def read_blocks(group: Group, keys: Sequence[str]) -> Iterator[Arrays]:
    """Yield arrays of all structures of a group, some structures at a time."""
    step = max(1, BLOCK_ATOMS // group.atoms)
    for start in range(0, len(group), step):
        yield group.read(np.arange(start, min(start + step, len(group))), keys)
