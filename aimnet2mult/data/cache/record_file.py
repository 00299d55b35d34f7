"""The file of the structures of one size group: an npy file with one record per structure.

A record has all arrays of a structure next to each other, so that one read of a few kilobytes finds all of them, and
ends with a CRC-32 of the rest.
"""

import io
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.file_format import array_type

__all__ = ["CHECKSUM", "NO_ELEMENT", "RecordFile", "byte_view", "record_checksums", "write_records"]

CHECKSUM = "crc32"
"""Name of the last field of a record."""
VERIFY_ROWS = 1000
"""Number of records that are verified at once."""
NO_ELEMENT = 255
"""Stored in place of an atomic number that does not fit in a byte; no model supports either."""


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """A file of records."""

    path: Path
    dtype: np.dtype[Any]
    """Type of a record."""
    rows: int

    @classmethod
    def of(cls, folder: Path, atoms: int, rows: int, shapes: Mapping[str, tuple[int, ...]]) -> "RecordFile":
        """Return the file of a group.

        Args:
            folder: The folder of the file.
            atoms: Number of atoms of a structure, including padding.
            rows: Number of structures.
            shapes: Shape of each array of a structure.
        """
        fields = [(key, _stored_type(key), shape) for key, shape in shapes.items()]
        return cls(path=folder / f"{atoms:03}.npy", dtype=np.dtype([*fields, (CHECKSUM, "<u4")]), rows=rows)

    @property
    def header(self) -> bytes:
        """The first bytes of the file."""
        stream = io.BytesIO()
        description = {"descr": self.dtype.descr, "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_2_0(stream, description)
        return stream.getvalue()

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.offset(self.rows)

    def offset(self, row: int) -> int:
        """Return where the record of a row begins."""
        return len(self.header) + row * self.dtype.itemsize

    def verify(self, rows: int) -> bool:
        """Return whether the header and the first records are intact, reading all of them.

        Raises:
            OSError: The file cannot be read.
        """
        header = self.header
        with self.path.open("rb") as file:
            if file.read(len(header)) != header:
                return False
            for start in range(0, rows, VERIFY_ROWS):
                records = np.zeros(min(VERIFY_ROWS, rows - start), self.dtype)
                if file.readinto(byte_view(records)) < records.nbytes:
                    return False
                if (records[CHECKSUM] != record_checksums(records)).any():
                    return False
        return True

    def find_damage(self) -> str:
        """Return what is wrong with the size or the header of the file, or ""."""
        header = self.header
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.size:
                    return f"{self.path} has {size:,} bytes, expected {self.size:,}"
                return "" if file.read(len(header)) == header else f"the header of {self.path} is damaged"
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"


def write_records(file: BinaryIO, dtype: np.dtype[Any], block: Mapping[str, npt.NDArray[Any]]) -> None:
    """Append structures to a file.

    Args:
        file: The file.
        dtype: Type of a record.
        block: The arrays of the structures, in the units of the training, by key; there may be others.
    """
    records = np.zeros(len(block["numbers"]), dtype)
    for key in dtype.fields or ():
        if key == "numbers":
            numbers = block[key].astype(array_type(key))
            records[key] = np.where((numbers >= 0) & (numbers < NO_ELEMENT), numbers, NO_ELEMENT)
        elif key != CHECKSUM:
            records[key] = block[key]
    records[CHECKSUM] = record_checksums(records)
    file.write(records.data)


def record_checksums(records: npt.NDArray[Any]) -> list[int]:
    """Return the CRC-32 of each record."""
    size = records.dtype.itemsize
    length = size - records.dtype[CHECKSUM].itemsize
    data = byte_view(records)
    return [zlib.crc32(data[start : start + length]) for start in range(0, len(data), size)]


def byte_view(records: npt.NDArray[Any]) -> memoryview:
    """Return the memory of an array as bytes."""
    return memoryview(records.data).cast("B") if len(records) else memoryview(b"")


def _stored_type(key: str) -> np.dtype[Any]:
    return np.dtype(np.uint8) if key == "numbers" else array_type(key).newbyteorder("<")
