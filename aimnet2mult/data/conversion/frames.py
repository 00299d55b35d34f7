"""Reading of structures, one after the other, from extended xyz, ASE files and npz."""

import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from aimnet2mult.data.conversion.names import Names
from aimnet2mult.data.conversion.npz import is_periodic, read_npz
from aimnet2mult.errors import DataError
from telemetry.errors import error_text

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["FORMATS", "Frame", "read_frames"]


QUOTED = re.compile(r""" "[^"]*" | '[^']*' | \{[^}]*\} | \[[^]]*\] """, re.VERBOSE)
"""Texts and arrays in the comment of a frame."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A structure with all values of its file."""

    place: str
    """Location for messages, such as ``a.xyz, frame 17``; frames and rows count from 0, IDs of databases from 1."""
    values: Mapping[str, Any]
    """Values by their name in the file."""
    periodic: bool = False
    """Whether the structure is periodic in any direction."""
    problem: str = ""
    """Why it cannot be read, or ""."""


def read_frames(path: Path, names: Names) -> Iterator[Frame]:
    """Yield the structures of a file, whose suffix determines the format.

    Args:
        path: The file.
        names: Finds the arrays in npz files.

    Raises:
        DataError: The file cannot be read, its format is unknown, or it has no structures.
    """
    reader = _find_reader(path)
    try:
        is_empty = True
        for frame in reader(path, names):
            is_empty = False
            yield frame
    except DataError:
        raise
    except Exception as error:
        # Damaged files make ASE, SQLite and NumPy raise errors of any type.
        raise DataError(f"cannot read {path}: {error_text(error) or type(error).__name__}") from error
    if is_empty:
        raise DataError(f"{path} has no structures")


def _find_reader(path: Path) -> "Reader":
    name = path.name.lower()
    reader = FORMATS.get(Path(name.removesuffix(".gz")).suffix)
    if reader is None or (name.endswith(".gz") and reader is not _read_xyz):
        raise DataError(f"{path}: unknown format {path.suffix!r}; expected {', '.join(FORMATS)} or .xyz.gz")
    if not path.is_file():
        raise DataError(f"no file {path}" if not path.exists() else f"cannot read {path}: it is not a regular file")
    return reader


def _read_xyz(path: Path, names: Names) -> Iterator[Frame]:
    from ase.io.extxyz import read_xyz

    open_text = gzip.open if path.suffix.lower() == ".gz" else open
    # Bytes that are not UTF-8 do not matter in comments; in numbers and elements, they are reported.
    with open_text(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(_split_xyz(path, file)):
            place = f"{path}, frame {number}"
            try:
                _check_comment(text.split("\n", 2)[1], names)
                (atoms,) = read_xyz(io.StringIO(text), index=slice(0, 1))
                yield _frame(place, names, atoms, atoms.info)
            except KeyError as error:
                yield Frame(place=place, values={}, problem=f"unknown element {error}")
            except Exception as error:  # noqa: BLE001 - ASE raises errors of any type for malformed lines
                yield Frame(place=place, values={}, problem=f"cannot be read: {error_text(error)}")


def _check_comment(line: str, names: Names) -> None:
    """Check that the comment of a frame gives each value once; ASE would silently use the last one.

    Raises:
        DataError: A name is repeated.
    """
    found = [name for name in re.findall(r"([^\s=]+)\s*=", QUOTED.sub('""', line)) if name in names.wanted]
    if repeated := [name for name, count in Counter(found).items() if count > 1]:
        raise DataError(f"{', '.join(map(repr, repeated))}: given more than once")


def _split_xyz(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the text of each frame; ASE would stop at the first empty line, and index the whole file first."""
    for number, line in enumerate(line for line in iter(file.readline, "") if line.strip()):
        if not line.strip().isdecimal():
            raise DataError(f"{path}, frame {number}: expected a number of atoms instead of {line.strip()[:40]!r}")
        count = int(line)
        rest = list(islice(iter(file.readline, ""), count + 1))
        if len(rest) <= count:
            raise DataError(f"{path}, frame {number}: the file ends before {count:,} atoms; it is truncated")
        yield line + "".join(rest)


def _read_database(path: Path, names: Names) -> Iterator[Frame]:
    from ase.db import connect

    database = connect(path, type="db")  # type: ignore[no-untyped-call] # ASE has no complete types
    for row in database.select():
        yield _frame(f"{path}, ID {row.id}", names, row.toatoms(), {**row.data, **row.key_value_pairs})


def _read_trajectory(path: Path, names: Names) -> Iterator[Frame]:
    from ase.io import iread

    for number, atoms in enumerate(iread(path, index=":", format="traj")):
        yield _frame(f"{path}, frame {number}", names, atoms, atoms.info)


def _frame(place: str, names: Names, atoms: "Atoms", info: Mapping[str, Any]) -> Frame:
    """Return a structure with the values in ``info``, its arrays and the results of its calculator."""
    values = {**atoms.arrays, **({} if atoms.calc is None else atoms.calc.results)}
    unclear = sorted(key for key in values.keys() & info.keys() & names.wanted if _differ(values[key], info[key]))
    problem = f"{', '.join(map(repr, unclear))}: given twice, with different values" if unclear else ""
    return Frame(place=place, values={**info, **values}, periodic=bool(atoms.pbc.any()), problem=problem)


def _differ(first: Any, second: Any) -> bool:
    """Return whether two values differ by more than the rounding of float32."""
    try:
        return not np.allclose(first, second, rtol=1e-6, atol=1e-6, equal_nan=True)
    except (TypeError, ValueError):  # texts, or arrays of other shapes
        return True


def _read_npz(path: Path, names: Names) -> Iterator[Frame]:
    periodic = is_periodic(path)
    for number, values in enumerate(read_npz(path, names)):
        yield Frame(place=f"{path}, row {number}", values=values, periodic=periodic)


Reader = Callable[[Path, Names], Iterator[Frame]]

FORMATS: Mapping[str, Reader] = {
    ".xyz": _read_xyz,
    ".extxyz": _read_xyz,
    ".db": _read_database,
    ".traj": _read_trajectory,
    ".npz": _read_npz,
}
"""Readers by suffix."""
