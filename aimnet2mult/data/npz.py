"""Folders of npz files, one for each number of atoms, such as ``007.npz``, as data files.

Rows are read from a stream, so that only some of them are in memory. Nothing is unpickled: an array of Python objects
could execute code.
"""

import contextlib
import lzma
import math
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from telemetry.errors import error_text

__all__ = ["NPZ_ERRORS", "NpzArray", "NpzFolder"]

NPZ_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""Errors that damaged files cause."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The compression methods of NumPy; the memory of others depends on the file."""


class NpzArray:
    """An array in an npz file, like a dataset of h5py.

    Args:
        path: The npz file.
        name: Name of the array.

    Raises:
        ValueError: The array contains Python objects, or is damaged.
        *NPZ_ERRORS: The file is damaged.
    """

    chunks = None

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._member = path, f"{name}.npy"
        self._stream: IO[bytes] | None = None
        self._whole: npt.NDArray[Any] | None = None
        with zipfile.ZipFile(path) as archive, archive.open(self._member) as stream:
            info = archive.getinfo(self._member)
            if info.compress_type not in METHODS:
                raise ValueError("is not compressed as by NumPy")
            self.shape, self._fortran, self.dtype = _read_header(stream)
            self._begin = stream.tell()
        self.ndim = len(self.shape)
        size = math.prod(self.shape) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise ValueError(
                "contains Python objects, which could execute code; pad its rows with zeros, or write one file per "
                "number of atoms"
            )
        if min(self.shape, default=0) < 0 or self._begin + size != info.file_size:
            raise ValueError(f"is damaged: it has {info.file_size - self._begin:,} bytes, expected {size:,}")

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Return consecutive rows; in ascending order, each byte of the file is read only once."""
        start, stop, _ = rows.indices(self.shape[0])
        shape, last = (max(stop - start, 0), *self.shape[1:]), stop == self.shape[0]
        if not self._fortran or self.ndim == 1:
            return self._read(start * math.prod(shape[1:]) * self.dtype.itemsize, shape, close=last)
        # The rows are scattered over the file.
        whole = self._read(0, self.shape[::-1], close=True).T if self._whole is None else self._whole
        self._whole = None if last else whole
        return whole[start:stop]

    def _read(self, offset: int, shape: tuple[int, ...], *, close: bool) -> npt.NDArray[Any]:
        stream = self._stream or zipfile.ZipFile(self._path).open(self._member)  # noqa: SIM115 - closed after the end
        self._stream = None if close else stream
        if stream.tell() != self._begin + offset:
            stream.seek(self._begin + offset)
        size = math.prod(shape) * self.dtype.itemsize
        data = stream.read(size)
        if len(data) < size:
            raise ValueError("is truncated")
        if close:
            # Reading to the end compares the checksum.
            stream.read(1)
            stream.close()
        return np.frombuffer(data, self.dtype).reshape(shape)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


class NpzFolder:
    """A folder of npz files.

    Raises:
        OSError: The folder cannot be read.
    """

    def __init__(self, path: Path) -> None:
        # Some file systems add hidden files.
        files = (file for file in path.iterdir() if file.suffix == ".npz" and not file.name.startswith("."))
        self.files: list[Path] = sorted(files)

    def size(self) -> int:
        """Return the size of all files that exist, in bytes."""
        size = 0
        for file in self.files:
            with contextlib.suppress(OSError):
                size += file.stat().st_size
        return size

    @staticmethod
    def members(file: Path) -> Mapping[str, NpzArray | str]:
        """Return the arrays in a file by name; for those that cannot be used, a text that states why.

        Raises:
            ValueError: The file cannot be read.
        """
        try:
            if not stat.S_ISREG(file.stat().st_mode):
                raise ValueError("it is not a regular file")
            with zipfile.ZipFile(file) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        except NPZ_ERRORS as error:
            raise ValueError(getattr(error, "strerror", None) or error_text(error)) from error
        return {name: _open(file, name) for name in names}


def _open(file: Path, name: str) -> NpzArray | str:
    try:
        return NpzArray(file, name)
    except NPZ_ERRORS as error:
        text = error_text(error)
        return text if text.startswith(("is ", "contains ")) else f"is damaged: {text}"
