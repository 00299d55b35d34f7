"""Writing of structures to an HDF5 file, with one group per number of atoms."""

import contextlib
import io
import os
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aimnet2mult.data.conversion.structure import Structure, row_shape
from aimnet2mult.data.file_format import array_type
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import LABELS, Label
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import remove_temporary_files, sync_folder

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
def new_file(path: Path, labels: Mapping[str, Label] = LABELS) -> Iterator["GroupWriter"]:
    """Write a file that appears under its name only once it is complete and durable.

    What a killed writer has left of the same file is removed. ``labels`` contains all labels by name.

    Raises:
        DataError: It cannot be written; nothing is left of it.
    """
    remove_temporary_files(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with OutputFile(temporary, "x+") as output:
            with h5py.File(output, "w") as file:
                writer = GroupWriter(file, output, labels)
                yield writer
                writer.finish()
            output.check()
            os.fsync(output.fileno())
        check_absent(path)
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error_text(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


class OutputFile(io.FileIO):
    """A file that reports failed writes only when it is asked: HDF5 crashes the process if one fails."""

    _error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all data; if that fails, `check` raises the error."""
        view = memoryview(data).cast("B")
        try:
            done = 0
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self._error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size; if that fails, `check` raises the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = error
            return size or 0

    def check(self) -> None:
        """Raise the error of a write that failed.

        Raises:
            OSError: One did.
        """
        if self._error:
            raise self._error


class GroupWriter:
    """Collects structures by number of atoms, and writes them in blocks.

    A value that some structures lack is NaN there.
    """

    def __init__(self, file: h5py.File, output: OutputFile, labels: Mapping[str, Label]) -> None:
        self._file = file
        self._labels = labels
        self._output = output
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
            shape, dtype = row_shape(key, atoms, self._labels), array_type(key)
            missing = np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)
            block = np.stack([structure.get(key, missing) for structure in structures])
            self._resized(atoms, key, self._rows[atoms], chunk=len(structures))[start:] = block
        self._output.check()

    def _resized(self, atoms: int, key: str, rows: int, chunk: int = 1) -> h5py.Dataset:
        """Return an array with a number of rows; new ones are NaN. ``chunk`` is the size of its chunks if it is new."""
        name, shape, dtype = f"{atoms:03d}/{key}", row_shape(key, atoms, self._labels), array_type(key)
        if name not in self._file:
            fill = np.nan if dtype.kind == "f" else 0
            return self._file.create_dataset(
                name, (rows, *shape), dtype, maxshape=(None, *shape), chunks=(chunk, *shape), fillvalue=fill
            )
        array = self._file[name]
        array.resize(rows, axis=0)
        return array
