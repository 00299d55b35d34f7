"""A replacement of ``os`` for the journal, whose disk fails on request and loses data that has not been synced."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def use_as_os(monkeypatch: pytest.MonkeyPatch, fake: object) -> None:
    """Replace ``os`` with a fake in the modules that write the journal."""
    for module in ("telemetry.journal.writer", "telemetry.run_folder.atomic_write"):
        monkeypatch.setattr(f"{module}.os", fake)


class FaultyOs:
    """The module ``os``, with calls that fail on request.

    Attributes:
        room: bytes that can be written before the disk is full; None for no limit.
        sync_faults: number of syncs that fail next.
        forget: function that returns the bytes of a file after a failed sync, from its bytes before and the number of
            synced bytes.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self.sync_faults = 0
        self.forget: Callable[[bytes, int], bytes] = lambda data, synced: data
        self.writes: list[bytes] = []
        self._synced: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        """Open a file; a new one may have the inode of a deleted one."""
        fd = os.open(path, flags, mode, **more)
        if flags & os.O_EXCL:
            self._synced.pop(os.fstat(fd).st_ino, None)
        return fd

    def write(self, fd: int, data: memoryview | bytes) -> int:
        """Write as much as there is room for; raise if there is none."""
        size = len(data) if self.room is None else min(len(data), self.room)
        if self.room is not None:
            self.room -= size
        if not size:
            raise no_space()
        self.writes.append(bytes(data))
        return os.write(fd, bytes(data[:size]))

    def fdatasync(self, fd: int) -> None:
        """Note the number of synced bytes, or fail and lose some of the other bytes."""
        inode = os.fstat(fd).st_ino
        if self.sync_faults:
            self.sync_faults -= 1
            path = Path(f"/proc/self/fd/{fd}").readlink()
            if path.exists():
                with path.open("r+b") as file:
                    left = self.forget(file.read(), self._synced.get(inode, 0))
                    file.seek(0)
                    file.truncate()
                    file.write(left)
            raise broken()
        self._synced[inode] = os.fstat(fd).st_size

    def fsync(self, fd: int) -> None:
        """Do nothing; folders lose no names here."""


def keep(data: bytes, synced: int) -> bytes:
    """Lose nothing, as if the sync had succeeded and only its result was lost."""
    return data


def truncate(data: bytes, synced: int) -> bytes:
    return data[:synced]


def tear(data: bytes, synced: int) -> bytes:
    """Lose the second half of the unsynced bytes, tearing a line."""
    return data[: (synced + len(data)) // 2]


def to_nuls(data: bytes, synced: int) -> bytes:
    return data[:synced] + bytes(len(data) - synced)


def hole(data: bytes, synced: int) -> bytes:
    """Lose the middle third of the unsynced bytes."""
    third = (len(data) - synced) // 3
    return data[: synced + third] + bytes(third) + data[synced + 2 * third :]


def first_lost(data: bytes, synced: int) -> bytes:
    """Lose the first half of the unsynced bytes, as if one page had not been written."""
    half = (len(data) - synced) // 2
    return data[:synced] + bytes(half) + data[synced + half :]


FORGETFUL = [keep, truncate, tear, to_nuls, hole, first_lost]
