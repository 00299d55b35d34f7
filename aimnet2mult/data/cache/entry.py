"""The cache of one data file: a folder with records, what the checks have found, and a manifest."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aimnet2mult.data.cache.manifest import GroupRecords, Manifest, read_manifest
from aimnet2mult.data.cache.plain_objects import FILE_ERRORS, read_objects, write_objects
from aimnet2mult.data.cache.record_file import RecordFile
from aimnet2mult.data.cache.record_store import RecordStore
from aimnet2mult.data.file_content import ArrayContent, FileContent, GroupContent
from aimnet2mult.data.report import FileSummary, Problems, Report
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label
from telemetry.errors import error_text

__all__ = ["CONTENT", "CONTENT_RECORDS", "Entry", "find_entries", "open_entry", "read_content", "write_content"]

CONTENT = "content.npz"
CONTENT_RECORDS = (FileContent, GroupContent, ArrayContent, Report, Problems, FileSummary)
"""The classes in a file of what the checks have found."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The cache of one data file."""

    folder: Path
    manifest: Manifest

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def store(self, group: GroupRecords, labels: Sequence[Label]) -> RecordStore:
        """Return the structures of a group with records."""
        return RecordStore(self._file(group), group.atoms, labels)

    def content(self, path: Path) -> FileContent:
        """Return what the checks have found in a data file, whose path may have changed since.

        Raises:
            DataError: The cache is damaged.
        """
        try:
            with (self.folder / CONTENT).open("rb") as file:
                return read_content(file, path)
        except FILE_ERRORS as error:
            raise DataError(f"{self.folder / CONTENT} cannot be read: {error_text(error)}") from error

    def find_damage(self) -> str:
        """Return what is wrong with the sizes and headers of the records, or ""."""
        return next(filter(None, (self._file(group).find_damage() for group in self.manifest.groups)), "")

    def verify(self) -> bool:
        """Return whether all files are intact, reading all of them."""
        try:
            self.content(Path(self.manifest.path))
            return all(self._file(group).verify(group.rows) for group in self.manifest.groups)
        except (DataError, OSError):
            return False

    def _file(self, group: GroupRecords) -> RecordFile:
        return RecordFile.of(self.folder, group.atoms, group.rows, group.shapes)


def open_entry(folder: Path) -> Entry | None:
    """Return the cache in a folder; None if there is none, or if its manifest is damaged."""
    manifest = read_manifest(folder)
    return None if manifest is None else Entry(folder=folder, manifest=manifest)


def find_entries(folder: Path) -> Iterator[Entry]:
    """Yield the caches in a folder."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if not name.startswith(".") and (entry := open_entry(folder / name)) is not None:
            yield entry


def read_content(file: BinaryIO, path: Path) -> FileContent:
    """Return what the checks have found in a data file, written by `write_content`.

    Raises:
        *FILE_ERRORS: The file is damaged.
    """
    content = read_objects(file, CONTENT_RECORDS, place=str(path))
    if not isinstance(content, FileContent):
        raise TypeError("it contains something else")
    return content


def write_content(file: BinaryIO, content: FileContent, path: Path) -> None:
    """Write what the checks have found in a data file."""
    write_objects(file, content, CONTENT_RECORDS, place=str(path))
