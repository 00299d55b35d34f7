"""Reading of many extents of a file at a time, without moving a position that processes share."""

import os
from collections.abc import Iterable

__all__ = ["Extent", "read_extents"]

Extent = tuple[memoryview, int]
"""A buffer to fill, and its offset in the file."""


def read_extents(fd: int, extents: Iterable[Extent]) -> None:
    """Fill buffers from a file.

    Extents in the page cache are copied at once. The others are all requested before the first one is read, so that a
    disk or a file server works on them at the same time.

    Raises:
        OSError: The file cannot be read.
        EOFError: It is too short.
    """
    missing = [extent for extent in extents if not _read_cached(fd, *extent)]
    for buffer, offset in missing:
        os.posix_fadvise(fd, offset, len(buffer), os.POSIX_FADV_WILLNEED)
    for buffer, offset in missing:
        _read(fd, buffer, offset)


def _read_cached(fd: int, buffer: memoryview, offset: int) -> bool:
    """Fill a buffer if this does not have to wait for a disk; network file systems never do."""
    try:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
    except OSError:
        return False


def _read(fd: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if not count:
            raise EOFError("the file has been truncated")
        done += count
