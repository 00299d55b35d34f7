"""The offline files of one W&B run: read back, and closed against whoever may still write to them.

wandb writes a segment for each ``init``: ``offline-run-<time>-<id>/run-<id>.wandb``, a log in LevelDB's format (blocks
of 32 KiB, each piece of a record with its length and CRC-32) behind a header of 7 bytes. ``wandb sync`` stops at a
segment that ends in the middle of a record, and leaves out those after it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry.sink_api import private_opener

SEQ, ATTEMPT = "telemetry/seq", "telemetry/attempt"
"""The keys under which each row says which record it is, and of which attempt."""
STATUS, ALERT = "telemetry/status", "telemetry/alert"
"""The keys of the summary under which a run says how it ended, and which record was its last alert then."""

_HEADER = 7
_BLOCK = 1 << 15
_PIECE = struct.Struct("<IHB")
_FULL, _LAST = 1, 4
_PARTIAL = ".partial"
_STAMPED = len("offline-run-20260131_235959")
_READ = frozenset({SEQ, ATTEMPT, "_step"})


@dataclass
class Held:
    """What W&B holds of a run.

    Attributes:
        last_seq: the highest sequence number; 0 if it is known to hold none, None if that cannot be told.
        attempt: of the last row.
        next_step: the number that the next row has in W&B.
        status: with which the run was finished; something else as long as it is open.
        last_alert: the highest sequence number of an alert that came before an end.
    """

    last_seq: int | None = None
    attempt: int = 1
    next_step: int = 0
    status: str = ""
    last_alert: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Take one more row in, by its keys."""
        if SEQ in row:
            self.last_seq = max(self.last_seq or 0, int(row[SEQ]))
        self.attempt = int(row.get(ATTEMPT, self.attempt))
        self.next_step = max(self.next_step, int(row.get("_step", -1)) + 1)


class Segment:
    """One ``.wandb`` file, read as far as it has been written.

    Attributes:
        held: what is in it.
        end: the offset behind its last whole record; 0 if it has none.
        is_finished: whether it has an end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = Held()
        self.end = 0
        self.is_finished = False
        self._has_run = False
        self._status = ""

    def read(self) -> Held:
        """Read on from where the last call ended.

        Raises:
            OSError: the file cannot be read.
        """
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # chosen by protobuf's version

        for data, end in _records(self.path, self.end or _HEADER):
            record = Record.FromString(data)
            self.end = end
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self._has_run = True
            elif kind == "history":
                self.held.add(_read(record.history.item, _READ))
            elif kind == "summary":
                summary = _read(record.summary.update, {STATUS, ALERT})
                self._status = summary.get(STATUS, self._status)
                self.held.last_alert = summary.get(ALERT, self.held.last_alert)
            elif kind == "exit":
                self.is_finished = True
                self.held.status = self._status
        return self.held

    def sync(self) -> None:
        """Make what is there outlive a power cut; raises OSError."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def seal(self) -> None:
        """Cut off what is not whole, and keep out whoever has the file open, by putting a copy in its place.

        A sealed file is read-only; one that does not come to say which run it is of is removed, with its folder: it
        would end `wandb sync`. Raises OSError.
        """
        if not self._has_run:
            shutil.rmtree(self.path.parent)
            return
        copy = self.path.with_name(self.path.name + _PARTIAL)
        with self.path.open("rb") as source, open(copy, "wb", opener=private_opener) as target:
            shutil.copyfileobj(source, target, _BLOCK)
            target.truncate(self.end)
            target.flush()
            os.fsync(target.fileno())
        copy.chmod(0o400)
        copy.replace(self.path)

    def seal_what_was_synced(self) -> bool:
        """Seal the file if `wandb sync` has begun to take it, and say so; raises OSError.

        It is marked as synced as a whole then, and what comes to it later is passed over. What may have come in
        between is cut off.
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
        """Say whether nobody writes to the file any more."""
        return self.is_finished or not self.path.stat().st_mode & stat.S_IWUSR


def segments(folder: Path, run_id: str) -> list[Segment]:
    """Give the segments of a run below wandb's folder, the oldest first; raises OSError.

    wandb makes no links there: one leads to what is not of this run.
    """
    if not folder.is_dir():
        return []
    found = folder.glob(f"offline-run-*/run-{run_id}.wandb")
    return [Segment(path) for path in sorted(found, key=_age) if not (path.is_symlink() or path.parent.is_symlink())]


def _age(path: Path) -> tuple[str, int, str]:
    # offline-run-20260131_235959-<id>, and behind it -1 to -10 for those of the same second.
    name = path.parent.name
    return name[:_STAMPED], len(name), name


def _read(items: Iterable[Any], keys: Collection[str]) -> dict[str, Any]:
    # Of all that a file holds, these few count.
    found = ((item.key or ".".join(item.nested_key), item) for item in items)
    return {key: json.loads(item.value_json) for key, item in found if key in keys}


def _records(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Give each whole record from ``offset`` on and the offset behind it, up to the first that is not whole."""
    with path.open("rb") as file:
        file.seek(offset)
        pieces = b""
        while True:
            left = _BLOCK - offset % _BLOCK
            if left < _PIECE.size:
                # Too short for another piece: the block is filled up.
                file.seek(left, os.SEEK_CUR)
                offset += left
            head = file.read(_PIECE.size)
            if len(head) < _PIECE.size:
                return
            crc, length, kind = _PIECE.unpack(head)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data, zlib.crc32(head[-1:])) != crc:
                return
            offset += _PIECE.size + length
            pieces += data
            if kind in {_FULL, _LAST}:
                yield pieces, offset
                pieces = b""
