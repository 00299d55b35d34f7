"""Reading of single structures from the cache."""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.cache.record_file import CHECKSUM, RecordFile, byte_view, record_checksums
from aimnet2mult.data.file_format import OPTIONAL_INPUTS, array_type
from aimnet2mult.data.layout import BLOCK_ATOMS
from aimnet2mult.data.positioned_reads import Extent, read_extents
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label
from telemetry.errors import error_text

__all__ = ["RecordStore"]


class RecordStore:
    """The structures of one group of a data file, in a file of records.

    Args:
        file: The file.
        atoms: Number of atoms of a structure, including padding.
        labels: All labels that may be read.
    """

    def __init__(self, file: RecordFile, atoms: int, labels: Sequence[Label]) -> None:
        self.rows = file.rows
        self.atoms = atoms
        self.block = max(1, BLOCK_ATOMS // atoms)
        """Number of rows to read at once when all are read one after the other."""
        self._file = file
        self._begin = len(file.header)
        self._labels = {label.name: label for label in labels}
        self._fd: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, which opens the file itself."""
        return {**vars(self), "_fd": None}

    def __del__(self) -> None:
        """Close the file."""
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)  # type: ignore[arg-type] # not None
            self._fd = None

    def read(self, rows: npt.NDArray[np.integer[Any]], keys: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return new arrays of some structures; see `RowStore.read`.

        Raises:
            DataError: The cache cannot be read, or is damaged.
        """
        records = np.empty(len(rows), self._file.dtype)
        try:
            if self._fd is None:
                self._fd = os.open(self._file.path, os.O_RDONLY | os.O_CLOEXEC)
            read_extents(self._fd, self._extents(np.asarray(rows, np.int64), records))
        except (OSError, EOFError) as error:
            raise self._error(error_text(error)) from error
        wrong = np.flatnonzero(records[CHECKSUM] != record_checksums(records))
        if len(wrong):
            raise self._error(f"the record of row {rows[wrong[0]]} is damaged")
        return {key: self._array(records, key) for key in keys}

    def _extents(self, rows: npt.NDArray[np.int64], records: npt.NDArray[Any]) -> Iterator[Extent]:
        """Yield the extents to read: one for each run of consecutive rows."""
        size, buffer = records.itemsize, byte_view(records)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for (start, end), row in zip(pairwise([*starts.tolist(), len(rows)]), rows[starts].tolist(), strict=True):
            yield buffer[start * size : end * size], self._begin + row * size

    def _array(self, records: npt.NDArray[Any], key: str) -> npt.NDArray[Any]:
        if key in (records.dtype.fields or ()):
            return records[key].astype(array_type(key))
        shape = self._labels[key].shape(len(records), self.atoms) if key in self._labels else (len(records),)
        return np.full(shape, OPTIONAL_INPUTS.get(key, np.nan), array_type(key))

    def _error(self, reason: str) -> DataError:
        path = self._file.path
        return DataError(
            f"the data cache {path} cannot be read: {reason}; remove {path.parent}, and start again: the cache is "
            "built from the data file once more"
        )
