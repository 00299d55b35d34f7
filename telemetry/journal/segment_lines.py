"""The lines of one segment, read without trusting what the file is or holds."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from telemetry.errors import RunFolderError
from telemetry.journal.codec import MAX_LINE, Unknown, decode
from telemetry.records import AnyRecord

_CHUNK = 1 << 20
_FIRST_CHUNK = 1 << 16
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


def lines(path: Path, offset: int, *, tail: bool = False) -> Iterator[tuple[AnyRecord | Unknown | None, int]]:
    """Give (record or None for a damaged line, offset behind it) for each line from ``offset`` on.

    A last line without its newline is given, as damaged, only if ``tail`` says so.

    Raises:
        RunFolderError: the file is there and cannot be read.
    """
    fd = open_segment(path)
    if fd is None:
        return
    try:
        rest = b""
        skipping = False
        # Whoever wants the first line alone reads little more.
        size = _FIRST_CHUNK
        while chunk := read_at(fd, path, offset + len(rest), size):
            size = _CHUNK
            data = rest + chunk
            start = 0
            while (cut := data.find(b"\n", start)) >= 0:
                if skipping:
                    yield None, offset + cut + 1
                elif cut > start:
                    yield decode(data[start : cut + 1]), offset + cut + 1
                skipping = False
                start = cut + 1
            offset += start
            rest = data[start:]
            if len(rest) > MAX_LINE:
                # No line is that long: it is passed over without being kept.
                skipping = True
                offset += len(rest)
                rest = b""
        if tail and (rest or skipping):
            yield None, offset + len(rest)
    finally:
        os.close(fd)


def open_segment(path: Path) -> int | None:
    """Open a regular file; None where there is none, or something else stands in its place.

    Raises:
        RunFolderError: it is there and cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        # Passed over in silence, a file that cannot be opened now would be lost to whoever reads.
        raise _unreadable(path, error) from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def read_at(fd: int, path: Path, offset: int, size: int = _CHUNK) -> bytes:
    """Give up to ``size`` bytes from ``offset`` on; raises RunFolderError."""
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path} cannot be read ({error.strerror})")
