"""Recognition of data files: by size, time and inode without reading them, otherwise by a checksum."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

__all__ = ["FileState", "Source", "checksum", "find_source"]

CHUNK = 1 << 24
"""Number of bytes that are read at once."""


class FileState(msgspec.Struct, frozen=True):
    """What identifies the content of a file as long as nobody changes it deliberately."""

    name: str
    """Name in the folder of npz files; empty for an HDF5 file."""
    size: int
    mtime_ns: int
    inode: int


Source = tuple[FileState, ...]
"""The files of a data set: one HDF5 file, or all npz files of a folder."""


def find_source(path: Path) -> Source:
    """Return the state of the files of a data set.

    Raises:
        OSError: A file does not exist.
    """
    states = []
    for file in _files(path):
        stat = file.stat()
        states.append(
            FileState(
                name=file.name if file != path else "", size=stat.st_size, mtime_ns=stat.st_mtime_ns, inode=stat.st_ino
            )
        )
    return tuple(states)


def checksum(path: Path, alive: Callable[[], object] = lambda: None) -> str:
    """Return the SHA-256 of the files of a data set, with their names and sizes.

    Args:
        path: The HDF5 file, or the folder of npz files.
        alive: Called every few megabytes.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            if file != path:
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                alive()
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix == ".npz" and not file.name.startswith("."))
