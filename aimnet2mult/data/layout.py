"""Opening of data files, checks of names, shapes and types in them, and reading of rows.

There is one group per number of atoms, named after it, such as ``007``: a group of an HDF5 file, or an npz file.
"""

import contextlib
import errno
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aimnet2mult.data.file_format import FRAMES, OPTIONAL_INPUTS, REQUIRED_INPUTS, FileFormat
from aimnet2mult.data.members import READ_ERRORS, DataFile, Members, StoredArray, open_groups
from aimnet2mult.data.npz import NpzFolder
from aimnet2mult.data.places import counted
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label
from telemetry.errors import error_text

__all__ = ["BLOCK_ATOMS", "Layout", "SizeGroup", "open_file", "read_error", "read_frames", "read_layout", "read_rows"]

BLOCK_ATOMS = 50_000
"""Number of atoms that are read at once, which bounds the memory of the checks and suits the cache of a CPU."""

CHUNK_CACHE = 2**20
"""Bytes of decompressed chunks that HDF5 keeps in memory for each array of each group until the file is closed; the
default of HDF5 2.0, eight times as much, takes 3 GB for 60 groups."""
MAX_CHUNK_BLOCKS = 64
"""Maximum number of such blocks that are read at once because they are in one HDF5 chunk."""
MAX_UNCHECKED_BYTES = 2**30
"""Size of the coordinates in memory up to which a file may be of any size."""
MAX_EXPANSION = 100
"""Maximum ratio of the coordinates in memory to the size of the file; real ones can be compressed to about a half."""


@dataclass(frozen=True, kw_only=True)
class SizeGroup:
    """A group of a file, with those of its arrays that have the right shape and type."""

    path: Path
    name: str
    rows: int
    atoms: int
    """Number of atoms, including padding."""
    arrays: Mapping[str, StoredArray]
    """Arrays by input or label; valid while the file is open."""
    frames: StoredArray | None = None
    """Number of each structure in the data that the file was converted from, if known (rows,)."""

    def blocks(self) -> Iterator[slice]:
        """Yield the rows to read at once: whole HDF5 chunks, which are decompressed as a whole anyway."""
        block = max(1, BLOCK_ATOMS // self.atoms)
        chunk = max([1, *(array.chunks[0] for array in self.arrays.values() if array.chunks)])
        step = min(-(-block // chunk) * chunk, MAX_CHUNK_BLOCKS * block)
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The groups of a file that can be read, and the problems of the others."""

    groups: Sequence[SizeGroup]
    problems: Sequence[str]
    other_arrays: Sequence[str]
    """Names of the arrays that are not read."""


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[DataFile]:
    """Open an HDF5 file or a folder of npz files for reading.

    Raises:
        DataError: It does not exist, cannot be read, is not an HDF5 file, or is locked.
    """
    try:
        file = NpzFolder(path) if path.is_dir() else _open_hdf5(path)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no data set {path}") from None
    except READ_ERRORS as error:
        raise DataError(_explain(path, error)) from error
    with contextlib.nullcontext(file) if isinstance(file, NpzFolder) else file:
        yield file


def _open_hdf5(path: Path) -> h5py.File:
    _check_kind(path)
    with path.open("rb"):
        pass
    return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)


def read_layout(path: Path, file: DataFile, labels: Sequence[Label], file_format: FileFormat) -> Layout:
    """Check the names, shapes and types in a file, without reading the arrays.

    Raises:
        DataError: The file is damaged.
    """
    groups, problems = open_groups(path, file, allow_external=file_format.allow_external)
    keys = [*REQUIRED_INPUTS, *OPTIONAL_INPUTS, *(label.name for label in labels)]
    problems += _uneven(path, groups, keys[len(REQUIRED_INPUTS) :], file_format)
    usable = []
    for name, group in groups.items():
        arrays, own_problems = _arrays(int(name), group, labels, file_format)
        problems += [f"{path}, group {name}{problem}" for problem in own_problems]
        if arrays.keys() >= {*REQUIRED_INPUTS}:
            rows = arrays["numbers"].shape[0]
            frames = _frames(group.get(FRAMES), rows)
            usable.append(SizeGroup(path=path, name=name, rows=rows, atoms=int(name), arrays=arrays, frames=frames))
    stored = file.size() if isinstance(file, NpzFolder) else path.stat().st_size
    if problem := "" if file_format.allow_external else _size_problem(path, usable, stored):
        problems, usable = [*problems, problem], []
    read = {FRAMES, *map(file_format.name, keys)}
    found = {name for group in groups.values() for name, member in group.items() if isinstance(member, StoredArray)}
    return Layout(
        groups=sorted(usable, key=lambda group: group.atoms),
        problems=problems,
        other_arrays=sorted(found - read),
    )


def read_rows(group: SizeGroup, key: str, rows: slice, file_format: FileFormat) -> npt.NDArray[Any]:
    """Read rows of an array, as stored; ``file_format`` names it.

    Raises:
        DataError: They are damaged.
    """
    try:
        values: npt.NDArray[Any] = group.arrays[key][rows]
    except READ_ERRORS as error:
        raise read_error(group.path, group.name, rows, file_format.name(key), error) from error
    return values


def read_error(path: Path, group: str, rows: slice, name: str, error: Exception) -> DataError:
    """Return the error that rows of an array cannot be read."""
    where = f"{path}, group {group}, rows {rows.start} to {rows.stop - 1}"
    return DataError(f"{where}: {name!r} cannot be read; restore the file from a copy ({error_text(error)})")


def _check_kind(path: Path) -> None:
    """Check that a path is a file: opening a named pipe would wait for a writer."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"cannot read {path}: it is not a regular file")


def _explain(path: Path, error: Exception) -> str:
    text = error_text(error)
    number = error.errno if isinstance(error, OSError) else None
    if "unable to lock file" in text or number == errno.EAGAIN:
        return f"{path} is locked: another program has opened it for writing; close it there first"
    if "file signature not found" in text:
        return f"{path} is not an HDF5 file"
    return f"cannot read {path}: {os.strerror(number) if number else text}"


def _size_problem(path: Path, groups: Sequence[SizeGroup], stored: int) -> str:
    """Return why the arrays are implausibly large for the size of the file, or ""."""
    size = sum(math.prod(group.arrays["coord"].shape) * group.arrays["coord"].dtype.itemsize for group in groups)
    if size <= max(MAX_UNCHECKED_BYTES, MAX_EXPANSION * stored):
        return ""
    return (
        f"{path} has {stored:,} bytes, but its coordinates have {size:,}: most of them have never been written, or "
        "the file is damaged"
    )


def _uneven(path: Path, groups: Mapping[str, Members], keys: Sequence[str], file_format: FileFormat) -> list[str]:
    """Describe the keys that are in some of the groups only."""
    problems = []
    for key in map(file_format.name, keys):
        has = [name for name, group in groups.items() if key in group]
        lacks = [name for name, group in groups.items() if key not in group]
        if has and lacks:
            more = f" and {counted(len(lacks) - 1, 'other')} do" if len(lacks) > 1 else " does"
            problems.append(
                f"{path}: group {has[0]} has {key!r}, but group {lacks[0]}{more} not; "
                "write it to every group (NaN for missing labels) or to none"
            )
    return problems


def _arrays(
    atoms: int, group: Members, labels: Sequence[Label], file_format: FileFormat
) -> tuple[dict[str, StoredArray], list[str]]:
    """Return the valid arrays of a group, and the problems of the others."""
    arrays: dict[str, StoredArray] = {}
    problems = []
    for key in (*REQUIRED_INPUTS, *OPTIONAL_INPUTS, *(label.name for label in labels)):
        name = file_format.name(key)
        if name in group:
            if problem := _type_problem(key, group[name]):
                problems.append(f": {name!r} {problem}")
            else:
                arrays[key] = group[name]
        elif key in REQUIRED_INPUTS:
            members = f"it has {', '.join(sorted(group))}" if len(group) else "it is empty"
            problems.append(f" has no {name!r}; {members}")
    # All arrays have as many rows as the atomic numbers, or as the coordinates if those are not one row per structure.
    rows = [arrays[key].shape[0] for key, ndim in (("numbers", 2), ("coord", 3)) if _has_ndim(arrays.get(key), ndim)]
    for key, expected in _shapes(rows[0] if rows else 0, atoms, labels).items():
        if key in arrays and "numbers" in arrays and arrays[key].shape != expected:
            problems.append(f": {file_format.name(key)!r} has shape {arrays[key].shape}, expected {expected}")
            del arrays[key]
    return arrays, problems


def _frames(array: object, rows: int) -> StoredArray | None:
    """Return the array if it can be the numbers of the structures in the data that were converted."""
    usable = isinstance(array, StoredArray) and array.shape == (rows,) and array.dtype.kind in "iu"
    return array if usable else None


def read_frames(group: SizeGroup) -> npt.NDArray[np.int64] | None:
    """Return the number of each structure in the data that were converted; None if unknown or damaged."""
    try:
        return None if group.frames is None else np.asarray(group.frames[:], np.int64)
    except READ_ERRORS:
        return None


def _has_ndim(array: StoredArray | None, ndim: int) -> bool:
    return array is not None and array.ndim == ndim


def _type_problem(key: str, array: object) -> str:
    if isinstance(array, str):
        return array
    if not isinstance(array, StoredArray):
        return "is a group; expected an array"
    if array.shape is None:
        return "is empty"
    if h5py.check_string_dtype(array.dtype) is not None or array.dtype.kind in "SU":
        hint = " (for an element its atomic number, such as 8 for O)" if key == "numbers" else ""
        return f"contains text; expected numbers{hint}"
    # Charges of 0 and 1 may be stored as booleans.
    if array.dtype.kind not in ("biuf" if key in OPTIONAL_INPUTS else "iuf"):
        return f"has type {array.dtype}; expected integers or floating-point numbers"
    return ""


def _shapes(rows: int, atoms: int, labels: Sequence[Label]) -> dict[str, tuple[int, ...]]:
    return {
        "numbers": (rows, atoms),
        "coord": (rows, atoms, 3),
        **dict.fromkeys(OPTIONAL_INPUTS, (rows,)),
        **{label.name: label.shape(rows, atoms) for label in labels},
    }
