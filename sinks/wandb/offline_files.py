"""The offline files of one W&B run: read back, repaired, and sealed against further writes.

Each ``wandb.init`` creates a transaction log ``offline-run-<time>-<id>/run-<id>.wandb``: a header of 7 bytes followed
by a log in LevelDB's format (blocks of 32 KiB; each fragment of a record has a length and a CRC-32). ``wandb sync``
stops at a log that ends in the middle of a record, and does not read the logs after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sinks.wandb.stored_run import ATTEMPT_KEY, LAST_ALERT_KEY, SEQ_KEY, STATUS_KEY, StoredRun
from telemetry.sink_api import atomic_write, private_opener, remove_temporary_files

_HEADER_BYTES = 7
_BLOCK_BYTES = 1 << 15
_FRAGMENT_HEADER = struct.Struct("<IHB")
_FULL, _LAST = 1, 4
"""Types of the fragments that complete a record."""
_TIMESTAMPED_LENGTH = len("offline-run-20260131_235959")
_ROW_KEYS = frozenset({SEQ_KEY, ATTEMPT_KEY, "_step"})


class TransactionLog:
    """One ``.wandb`` file, read incrementally while it grows.

    Attributes:
        stored: the part of the run in this file.
        end: offset of the end of the last complete record; 0 if there is none.
        is_finished: whether the file contains the end of the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored = StoredRun()
        self.end = 0
        self.is_finished = False
        self._identifies_run = False
        self._status = ""
        self._unsynced: set[str] = set()

    def read(self) -> StoredRun:
        """Read the records added since the last call, and return the part of the run in this file.

        Raises:
            OSError: the file cannot be read.
        """
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # chosen by protobuf's version

        for data, end in _read_records(self.path, self.end or _HEADER_BYTES):
            record = Record.FromString(data)
            self.end = end
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self._identifies_run = True
            elif kind == "history":
                self.stored.add_row(_decode_items(record.history.item, _ROW_KEYS))
            elif kind == "summary":
                summary = _decode_items(record.summary.update, {STATUS_KEY, LAST_ALERT_KEY})
                self._status = summary.get(STATUS_KEY, self._status)
                self.stored.last_alert = summary.get(LAST_ALERT_KEY, self.stored.last_alert)
            elif kind == "files":
                self._unsynced.update(file.path for file in record.files.files)
            elif kind == "exit":
                self.is_finished = True
                self.stored.status = self._status
        return self.stored

    def sync(self) -> None:
        """Make the content of the file durable, and before it that of the media to which its rows refer.

        Raises:
            OSError: a file cannot be opened or synced.
        """
        for name in self._unsynced:
            # wandb may announce other files before it writes them.
            with contextlib.suppress(FileNotFoundError):
                _sync(self.path.parent / "files" / name)
        self._unsynced.clear()
        _sync(self.path)

    def seal(self) -> None:
        """Replace the file with a read-only copy, leaving out any incomplete record at the end.

        A process that still has the old file open writes to a deleted file from then on. A file that does not identify
        its run is removed together with its folder, because ``wandb sync`` would stop at it.

        Raises:
            OSError: the file cannot be replaced or removed.
        """
        if not self._identifies_run:
            shutil.rmtree(self.path.parent)
            return
        remove_temporary_files(self.path)
        mode = self.path.stat().st_mode & (stat.S_IRUSR | stat.S_IRGRP)
        atomic_write(self.path, self._copy_complete_records, mode=mode)

    def _copy_complete_records(self, target: BinaryIO) -> None:
        with open(self.path, "rb", opener=private_opener) as source:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)
        target.truncate(self.end)

    def seal_if_synced(self) -> bool:
        """Seal the file if ``wandb sync`` has started to upload it, and return whether it has.

        ``wandb sync`` then marks the whole file as synced and skips records added later, so records that may have been
        added in the meantime are cut off.

        Raises:
            OSError: the file cannot be read or replaced.
        """
        marks = [self.path.with_name(self.path.name + mark) for mark in (".syncstate", ".synced")]
        times = [mark.stat().st_mtime_ns for mark in marks if mark.exists()]
        if not times:
            return False
        if self.path.stat().st_mtime_ns < min(times):
            self.read()
        self.seal()
        return True

    @property
    def is_sealed(self) -> bool:
        """Whether the file is no longer being written to."""
        return self.is_finished or not self.path.stat().st_mode & stat.S_IWUSR


def _sync(path: Path) -> None:
    fd = private_opener(str(path), os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def find_transaction_logs(folder: Path, run_id: str) -> list[TransactionLog]:
    """Return the transaction logs of a run in wandb's folder, oldest first.

    Only regular files count: wandb creates no symbolic links there, so their targets are not its files.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    found = folder.glob(f"offline-run-*/run-{run_id}.wandb")
    return [
        TransactionLog(path)
        for path in sorted(found, key=_creation_order)
        if path.is_file() and not (path.is_symlink() or path.parent.is_symlink())
    ]


def _creation_order(path: Path) -> tuple[str, int, str]:
    # offline-run-20260131_235959-<id>; further runs started in the same second have the suffix -1 to -10.
    name = path.parent.name
    return name[:_TIMESTAMPED_LENGTH], len(name), name


def _decode_items(items: Iterable[Any], keys: Collection[str]) -> dict[str, Any]:
    # Only the given keys are decoded: a file has many more.
    found = ((item.key or ".".join(item.nested_key), item) for item in items)
    return {key: json.loads(item.value_json) for key, item in found if key in keys}


def _read_records(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yield each complete record from ``offset`` on, with the offset of its end, up to the first incomplete one."""
    with open(path, "rb", opener=private_opener) as file:
        file.seek(offset)
        fragments = b""
        while True:
            room = _BLOCK_BYTES - offset % _BLOCK_BYTES
            if room < _FRAGMENT_HEADER.size:
                # The rest of the block is padding.
                file.seek(room, os.SEEK_CUR)
                offset += room
            header = file.read(_FRAGMENT_HEADER.size)
            if len(header) < _FRAGMENT_HEADER.size:
                return
            crc, length, kind = _FRAGMENT_HEADER.unpack(header)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data, zlib.crc32(header[-1:])) != crc:
                return
            offset += _FRAGMENT_HEADER.size + length
            fragments += data
            if kind in {_FULL, _LAST}:
                yield fragments, offset
                fragments = b""
