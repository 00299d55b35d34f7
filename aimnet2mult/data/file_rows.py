"""Reading of single structures of a data file.

Contiguous arrays without compression are read at their place in the file, without HDF5: this is fast, possible in
several threads and after a fork, and an error of the disk is an exception. Other arrays are read through h5py or NumPy.
"""

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5t

from aimnet2mult.data.file_format import OPTIONAL_INPUTS, FileFormat, array_type
from aimnet2mult.data.labels import without_infinite
from aimnet2mult.data.layout import SizeGroup, open_file, read_error, read_layout, read_rows
from aimnet2mult.data.members import StoredArray
from aimnet2mult.data.positioned_reads import read_extents
from aimnet2mult.quantities import Label

__all__ = ["FileRows", "is_plain", "open_rows"]

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.integer[Any]]

MAX_GAP = 16 * 1024
"""Number of unneeded bytes up to which rows are read at once: reading them is as fast as another system call."""


@dataclass(frozen=True)
class _Place:
    """Where a contiguous array is in a file."""

    offset: int
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize


class _LazyFile:
    """A data file, opened when it is read; each process opens an HDF5 file again.

    Args:
        path: The file.
        labels: Labels to read.
        file_format: Names and units of the arrays.
    """

    def __init__(self, path: Path, labels: Sequence[Label], file_format: FileFormat) -> None:
        self.path, self.labels, self.file_format = path, tuple(labels), file_format
        self._lock = threading.Lock()
        self._descriptor = -1
        self._opened: tuple[int, contextlib.ExitStack, Mapping[str, SizeGroup]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _LazyFile, (self.path, self.labels, self.file_format)

    def descriptor(self) -> int:
        """Return a descriptor of the file, which stays valid after a fork."""
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor

    def group(self, name: str) -> SizeGroup:
        """Return a group, opened by this process."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                stack = contextlib.ExitStack()
                file = stack.enter_context(open_file(self.path))
                layout = read_layout(self.path, file, self.labels, self.file_format)
                self._opened = os.getpid(), stack, {group.name: group for group in layout.groups}
            return self._opened[2][name]


class FileRows:
    """The structures of a group of a data file, as described in `RowStore`.

    Args:
        file: The file.
        group: The group.
    """

    def __init__(self, file: _LazyFile, group: SizeGroup) -> None:
        self._file = file
        self._name = group.name
        self._rows, self._atoms = group.rows, group.atoms
        self._places = {key: _find(file.path, array) for key, array in group.arrays.items()}
        first = next(group.blocks(), slice(0, 1))
        self.block = first.stop - first.start
        """Number of rows to read at once when all are read one after the other."""

    @property
    def rows(self) -> int:
        """Number of structures, including bad ones."""
        return self._rows

    @property
    def atoms(self) -> int:
        """Number of atoms of a structure, including padding."""
        return self._atoms

    def read(self, rows: Rows, keys: Sequence[str]) -> dict[str, Array]:
        """Return new arrays of some structures; see `RowStore.read`."""
        rows = np.asarray(rows, np.int64)
        inverse: Any = slice(None)
        if len(rows) > 1 and not (rows[1:] > rows[:-1]).all():
            rows, inverse = np.unique(rows, return_inverse=True)
        return {key: self._read(key, rows)[inverse] for key in keys}

    def _read(self, key: str, rows: Rows) -> Array:
        """Return rows in ascending order of an array."""
        if key not in self._places:
            default = OPTIONAL_INPUTS.get(key, np.nan)
            return np.full((len(rows), *self._row_shape(key)), default, array_type(key))
        values = self._file.file_format.convert(key, self._read_stored(key, rows))
        if any(label.name == key for label in self._file.labels):
            values = without_infinite(values)
        return values.astype(array_type(key), copy=False)

    def _row_shape(self, key: str) -> tuple[int, ...]:
        shapes = {label.name: label.shape(1, self._atoms)[1:] for label in self._file.labels}
        return {"coord": (self._atoms, 3), "numbers": (self._atoms,), **shapes}.get(key, ())

    def _read_stored(self, key: str, rows: Rows) -> Array:
        place = self._places[key]
        if place is None:
            group = self._file.group(self._name)
            array = group.arrays[key]
            dtype, row_shape, gap = array.dtype, array.shape[1:], _slice_gap(array)
        else:
            dtype, row_shape, gap = place.dtype, place.row_shape, MAX_GAP // max(1, place.row_bytes)
        firsts, ends, positions = _runs(rows, gap)
        buffer = np.empty((int((ends - firsts).sum()), *row_shape), dtype)
        starts = (np.cumsum(ends - firsts) - (ends - firsts)).tolist()
        parts = [
            (first, buffer[start : start + end - first])
            for first, end, start in zip(firsts.tolist(), ends.tolist(), starts, strict=True)
        ]
        if place is not None:
            self._read_places(key, place, parts)
        else:
            for first, part in parts:
                part[:] = read_rows(group, key, slice(first, first + len(part)), self._file.file_format)
        return buffer if len(buffer) == len(rows) else buffer[positions]

    def _read_places(self, key: str, place: _Place, parts: Sequence[tuple[int, Array]]) -> None:
        """Read runs of rows, given by the first one, into parts of a buffer."""
        extents = [
            (memoryview(part.reshape(-1).view(np.uint8).data), place.offset + first * place.row_bytes)
            for first, part in parts
        ]
        try:
            read_extents(self._file.descriptor(), extents)
        except (OSError, EOFError) as error:
            rows, name = slice(parts[0][0], parts[-1][0] + len(parts[-1][1])), self._file.file_format.name(key)
            raise read_error(self._file.path, self._name, rows, name, error) from error


def open_rows(path: Path, labels: Sequence[Label], file_format: FileFormat) -> list[FileRows]:
    """Return the groups of a file, by number of atoms.

    Raises:
        DataError: The file cannot be used.
    """
    lazy = _LazyFile(path, labels, file_format)
    with open_file(path) as file:
        return [FileRows(lazy, group) for group in read_layout(path, file, labels, file_format).groups]


def is_plain(group: SizeGroup) -> bool:
    """Return whether the structures of a group can be read quickly: all arrays are contiguous and not compressed."""
    return all(_find(group.path, array) is not None for array in group.arrays.values())


def _find(path: Path, array: StoredArray) -> _Place | None:
    """Return where an array is in a file, if its bytes there are its values."""
    if not isinstance(array, h5py.Dataset):
        return None
    # A link may lead to another file.
    if not path.samefile(array.file.filename):
        return None
    is_contiguous = array.id.get_create_plist().get_layout() == h5d.CONTIGUOUS
    # Not for boolean, which are enumerations, and rare floating-point types.
    is_plain = array.dtype.kind in "iuf" and array.id.get_type() == h5t.py_create(array.dtype)
    offset = array.id.get_offset() if is_contiguous and is_plain else None
    return None if offset is None else _Place(offset, array.dtype, array.shape[1:])


def _slice_gap(array: StoredArray) -> int:
    """Return up to how many unneeded rows of an array are read: those of a chunk are decompressed anyway."""
    if array.chunks:
        return int(array.chunks[0])
    return MAX_GAP // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)


def _runs(rows: Rows, gap: int) -> tuple[Rows, Rows, Rows]:
    """Divide ascending rows into runs with gaps of up to a number of rows.

    Returns:
        The first rows of the runs, their ends, and the position of each row if the runs are put one after the other.
    """
    if not len(rows):
        return rows, rows, rows
    breaks = np.flatnonzero(np.diff(rows) > gap + 1)
    firsts, ends = rows[np.concatenate([[0], breaks + 1])], rows[np.concatenate([breaks, [len(rows) - 1]])] + 1
    lengths = ends - firsts
    shifts = np.cumsum(lengths) - lengths - firsts
    return firsts, ends, rows + shifts[np.searchsorted(firsts, rows, side="right") - 1]
