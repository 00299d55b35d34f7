"""Writing of structures to an HDF5 file, with one group per number of atoms."""

import contextlib
import os
import secrets
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from aimnet2mult.data.conversion.structure import Structure, row_shape
from aimnet2mult.data.file_format import array_type
from aimnet2mult.errors import DataError
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import sync_folder

__all__ = ["GroupWriter", "check_absent", "new_file"]

BLOCK_ATOMS = 16_384
"""Number of atoms of a group that are written at once, and to a chunk: 192 KiB of coordinates."""
MAX_PENDING_ATOMS = 1_000_000
"""Number of atoms that are kept until they are written, which bounds the memory."""


def check_absent(path: Path) -> None:
    """Check that a new file may be written.

    Raises:
        DataError: It exists, or its folder does not.
    """
    if os.path.lexists(path):
        raise DataError(f"{path} already exists; remove it or choose another name")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Write a file that appears under its name only once it is complete and durable.

    Raises:
        DataError: It cannot be written; nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with h5py.File(temporary, "x") as file:
            yield file
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        check_absent(path)
        temporary.rename(path)
        sync_folder(path.parent)
    except DataError:
        raise
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot write {path}: {error_text(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


class GroupWriter:
    """Collects structures by number of atoms, and writes them in blocks.

    A value that some structures lack is NaN there.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._pending: defaultdict[int, list[Structure]] = defaultdict(list)
        self._pending_atoms = 0
        self._rows: defaultdict[int, int] = defaultdict(int)

    def add(self, structure: Structure) -> None:
        """Add a structure."""
        atoms = len(structure["numbers"])
        self._pending[atoms].append(structure)
        self._pending_atoms += atoms
        if len(self._pending[atoms]) * atoms >= BLOCK_ATOMS:
            self._write(atoms)
        elif self._pending_atoms >= MAX_PENDING_ATOMS:
            self._write(max(self._pending, key=lambda size: size * len(self._pending[size])))

    def finish(self) -> None:
        """Write the rest, and give every group the same arrays."""
        for atoms in list(self._pending):
            self._write(atoms)
        keys = dict.fromkeys(key for group in self._file.values() for key in group)
        for atoms, rows in self._rows.items():
            for key in keys:
                self._resized(atoms, key, rows)

    def _write(self, atoms: int) -> None:
        """Append the pending structures of a size to its group."""
        structures = self._pending.pop(atoms)
        self._pending_atoms -= atoms * len(structures)
        start = self._rows[atoms]
        self._rows[atoms] += len(structures)
        for key in dict.fromkeys(key for structure in structures for key in structure):
            shape, dtype = row_shape(key, atoms), array_type(key)
            missing = np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)
            block = np.stack([structure.get(key, missing) for structure in structures])
            self._resized(atoms, key, self._rows[atoms], chunk=len(structures))[start:] = block

    def _resized(self, atoms: int, key: str, rows: int, chunk: int = 1) -> h5py.Dataset:
        """Return an array with a number of rows; new ones are NaN. ``chunk`` is the size of its chunks if it is new."""
        name, shape, dtype = f"{atoms:03d}/{key}", row_shape(key, atoms), array_type(key)
        if name not in self._file:
            fill = np.nan if dtype.kind == "f" else 0
            return self._file.create_dataset(
                name, (rows, *shape), dtype, maxshape=(None, *shape), chunks=(chunk, *shape), fillvalue=fill
            )
        array = self._file[name]
        array.resize(rows, axis=0)
        return array
