"""Writing of the cache of a data file in the pass of the checks; it continues after an interruption."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy.typing as npt

from aimnet2mult.data.cache.entry import CONTENT, CONTENT_RECORDS, write_content
from aimnet2mult.data.cache.manifest import GroupRecords
from aimnet2mult.data.cache.plain_objects import FILE_ERRORS, read_objects, write_objects
from aimnet2mult.data.cache.record_file import RecordFile, write_records
from aimnet2mult.data.content_scan import ContentScan
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_evidence import FileEvidence
from aimnet2mult.data.file_rows import is_plain
from aimnet2mult.data.file_scan import FileScan
from aimnet2mult.data.labels import InfiniteValues
from aimnet2mult.data.layout import SizeGroup
from aimnet2mult.data.unit_hints import ForceEvidence
from telemetry.run_folder.atomic_write import atomic_write, sync_folder

__all__ = ["SAVE_INTERVAL", "STATE", "Builder", "records_of"]

STATE = "state.npz"
"""File from which an interrupted build continues."""
STATE_RECORDS = (*CONTENT_RECORDS, ContentScan, FileEvidence, ForceEvidence, InfiniteValues)
SAVE_INTERVAL = 60.0
"""Seconds between two states from which an interrupted build can continue."""


def records_of(group: SizeGroup) -> GroupRecords | None:
    """Return the records of a group; None if it can be read quickly as it is: uncompressed, in one piece."""
    if not group.rows or is_plain(group):
        return None
    shapes = {key: tuple(array.shape[1:]) for key, array in group.arrays.items()}
    return GroupRecords(atoms=group.atoms, rows=group.rows, shapes=shapes)


@dataclass(kw_only=True)
class Builder:
    """Writes what a scan reads to a folder, and the state of the scan at intervals.

    If that is impossible, because the disk is full for example, all that has been written is removed, and the scan goes
    on without it.
    """

    folder: Path
    scan: FileScan
    groups: Mapping[str, GroupRecords]
    """The groups with records, by name."""
    progress: Callable[[int], object] = lambda _: None
    """Called with the number of structures read."""
    save_interval: float = SAVE_INTERVAL
    clock: Callable[[], float] = time.monotonic
    error: OSError | None = None
    """Why the folder could not be written to."""
    _file: BinaryIO | None = None
    _records: RecordFile | None = None
    _saved_at: float = 0.0

    def restore(self) -> None:
        """Continue after the last state that was saved, if there is one, and all records until then are intact.

        Raises:
            OSError: The folder cannot be written to.
        """
        self._saved_at = self.clock()
        try:
            with (self.folder / STATE).open("rb") as file:
                state = read_objects(file, STATE_RECORDS, place=str(self.scan.path))
            done: dict[str, int] = state["done"]
            damaged = any(not self._file_of(name).verify(rows) for name, rows in done.items() if name in self.groups)
        except FILE_ERRORS:
            damaged = True
        if damaged:
            for old in self.folder.iterdir():
                old.unlink()
        else:
            self.scan.restore(state)

    def start(self, group: SizeGroup) -> None:
        """Start with a group, or continue it."""
        with self._giving_up():
            self._close()
            done = self.scan.done[group.name]
            if self.error is None and group.name in self.groups and done < group.rows:
                self._open(self._file_of(group.name), done)

    def add(self, block: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add structures of the group, in the units and types of the training."""
        self.progress(sum(self.scan.done.values()))
        with self._giving_up():
            if self._file is not None and self._records is not None:
                write_records(self._file, self._records.dtype, block)
            if self.error is None and self.clock() >= self._saved_at + self.save_interval:
                self._save()

    def finish(self, content: FileContent) -> None:
        """Complete the records, and write what the checks have found."""
        with self._giving_up():
            self._close()
            if self.error is None:
                atomic_write(self.folder / CONTENT, lambda file: write_content(file, content, self.scan.path))
                (self.folder / STATE).unlink(missing_ok=True)
                sync_folder(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file after an interruption; the next build continues with it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def remove(self) -> None:
        """Remove all that has been written."""
        self.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Remove everything after an error in the block."""
        try:
            yield
        except OSError as error:
            self.error = error
            self.remove()

    def _file_of(self, group: str) -> RecordFile:
        found = self.groups[group]
        return RecordFile.of(self.folder, found.atoms, found.rows, found.shapes)

    def _open(self, records: RecordFile, done: int) -> None:
        self._records = records
        self._file = records.path.open("r+b" if done else "wb")
        if not done:
            self._file.write(records.header)
        self._file.seek(self._file.truncate(records.offset(done)))

    def _save(self) -> None:
        if self._file is not None:
            _sync(self._file)
        place, state = str(self.scan.path), self.scan.state()
        atomic_write(self.folder / STATE, lambda file: write_objects(file, state, STATE_RECORDS, place=place))
        self._saved_at = self.clock()

    def _close(self) -> None:
        if self._file is not None:
            _sync(self._file)
            self._file.close()
        self._file = self._records = None


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
