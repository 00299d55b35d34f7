"""Opening of HDF5 files, checks of names, shapes and types in them, and reading of rows.

There is one group per number of atoms, named after it, such as ``007``.
"""

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy.typing as npt

from aimnet2mult.data.file_format import OPTIONAL_INPUTS, REQUIRED_INPUTS, FileFormat
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import LABELS

__all__ = ["BLOCK_ATOMS", "Layout", "SizeGroup", "open_file", "read_layout", "read_rows"]

BLOCK_ATOMS = 50_000
"""Number of atoms that are read at once, which bounds the memory of the checks and suits the cache of a CPU."""


@dataclass(frozen=True, kw_only=True)
class SizeGroup:
    """A group of a file, with those of its arrays that have the right shape and type."""

    path: Path
    name: str
    rows: int
    atoms: int
    """Number of atoms, including padding."""
    arrays: Mapping[str, h5py.Dataset]
    """Arrays by input or label; valid while the file is open."""

    def blocks(self) -> Iterator[slice]:
        """Yield the rows to read at once: whole HDF5 chunks, which are decompressed as a whole anyway."""
        chunk = max([1, *(array.chunks[0] for array in self.arrays.values() if array.chunks)])
        step = -(-max(1, BLOCK_ATOMS // self.atoms) // chunk) * chunk
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The groups of a file that can be read, and the problems of the others."""

    groups: Sequence[SizeGroup]
    problems: Sequence[str]


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        DataError: It does not exist, cannot be read, is not an HDF5 file, or is locked.
    """
    try:
        with Path(path).open("rb"):
            pass
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"no data set {path}") from None
    except OSError as error:
        raise DataError(_explain(path, error)) from error
    with file:
        yield file


def read_layout(path: Path, file: h5py.File, labels: Sequence[str], file_format: FileFormat) -> Layout:
    """Check the names, shapes and types in a file, without reading the arrays."""
    problems: list[str] = []
    members = {name: _member(file, name) for name in file}
    if not members:
        problems.append(f"{path} has no groups")
    groups = {}
    for name, member in members.items():
        if isinstance(member, h5py.Group) and name.isdecimal() and int(name):
            groups[name] = member
        else:
            problems.append(f"{path}: {name!r} is not a group named by its number of atoms, such as '007'")
    by_size: dict[int, list[str]] = {}
    for name in groups:
        by_size.setdefault(int(name), []).append(name)
    problems += [
        f"{path}: several groups have the same number of atoms: {', '.join(names)}"
        for names in by_size.values()
        if len(names) > 1
    ]
    problems += _uneven(path, groups, [*OPTIONAL_INPUTS, *labels], file_format)
    found = [_size_group(path, name, group, labels, file_format, problems) for name, group in groups.items()]
    usable = sorted((group for group in found if group is not None), key=lambda group: group.atoms)
    return Layout(groups=usable, problems=problems)


def read_rows(group: SizeGroup, key: str, rows: slice, file_format: FileFormat) -> npt.NDArray[Any]:
    """Read rows of an array, in the unit of the training.

    Raises:
        DataError: They are damaged.
    """
    try:
        return file_format.convert(key, group.arrays[key][rows])
    except (OSError, RuntimeError) as error:
        where = f"{group.path}, group {group.name}, rows {rows.start} to {rows.stop - 1}"
        raise DataError(
            f"{where}: {file_format.name(key)!r} cannot be read; restore the file from a copy ({_one_line(error)})"
        ) from error


def _explain(path: Path, error: OSError) -> str:
    text = _one_line(error)
    if "unable to lock file" in text or error.errno == errno.EAGAIN:
        return f"{path} is locked: another program has opened it for writing; close it there first"
    if "file signature not found" in text:
        return f"{path} is not an HDF5 file"
    return f"cannot read {path}: {error.strerror if error.errno and error.strerror else text}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _member(group: h5py.Group, name: str) -> object:
    """Return a member of a group, or None for a link to an object that does not exist."""
    try:
        return group[name]
    except (KeyError, OSError, RuntimeError):
        return None


def _uneven(path: Path, groups: Mapping[str, h5py.Group], keys: Sequence[str], file_format: FileFormat) -> list[str]:
    """Describe the keys that are in some of the groups only."""
    problems = []
    for key in map(file_format.name, keys):
        has = [name for name, group in groups.items() if key in group]
        lacks = [name for name in groups if name not in has]
        if has and lacks:
            more = f" (nor do {len(lacks) - 1} others)" if len(lacks) > 1 else ""
            problems.append(
                f"{path}: group {has[0]} has {key!r} and group {lacks[0]} does not{more}; "
                "write it to every group (NaN for missing labels) or to none"
            )
    return problems


def _size_group(
    path: Path, name: str, group: h5py.Group, labels: Sequence[str], file_format: FileFormat, problems: list[str]
) -> SizeGroup | None:
    """Return a group with its valid arrays, and append the problems of the others; None if it cannot be used."""
    arrays: dict[str, h5py.Dataset] = {}
    where = f"{path}, group {name}"
    for key in (*REQUIRED_INPUTS, *OPTIONAL_INPUTS, *labels):
        array_name = file_format.name(key)
        if array_name not in group:
            if key in REQUIRED_INPUTS:
                members = f"it has {', '.join(sorted(group))}" if len(group) else "it is empty"
                problems.append(f"{where} has no {array_name!r}; {members}")
            continue
        array = _member(group, array_name)
        problem = _type_problem(array)
        if problem:
            problems.append(f"{where}: {array_name!r} {problem}")
        else:
            arrays[key] = array
    if "numbers" not in arrays:
        return None
    shape = arrays["numbers"].shape
    rows, atoms = shape[0] if shape else 0, int(name)
    for key, expected in _shapes(rows, atoms, labels).items():
        if key in arrays and arrays[key].shape != expected:
            problems.append(f"{where}: {file_format.name(key)!r} has shape {arrays[key].shape}, expected {expected}")
            del arrays[key]
    return SizeGroup(path=path, name=name, rows=rows, atoms=atoms, arrays=arrays) if "numbers" in arrays else None


def _type_problem(array: object) -> str:
    if array is None:
        return "is a link to an object that does not exist"
    if not isinstance(array, h5py.Dataset):
        return "is a group; expected an array"
    if array.shape is None:
        return "is empty"
    if h5py.check_string_dtype(array.dtype) is not None or array.dtype.kind in "SU":
        return "contains text; expected numbers (for an element its atomic number, such as 8 for O)"
    if array.dtype.kind not in "iuf":
        return f"has type {array.dtype}; expected integers or floating-point numbers"
    return ""


def _shapes(rows: int, atoms: int, labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {
        "numbers": (rows, atoms),
        "coord": (rows, atoms, 3),
        **dict.fromkeys(OPTIONAL_INPUTS, (rows,)),
        **{label: LABELS[label].shape(rows, atoms) for label in labels},
    }
