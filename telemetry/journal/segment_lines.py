"""Read the lines of a segment, without trusting the file or its content."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from telemetry.errors import RunFolderError
from telemetry.journal.codec import MAX_LINE, Unknown, decode
from telemetry.journal.stream_search import StreamSearch
from telemetry.records import MAX_STEP, AnyRecord, Scalars
from telemetry.run_folder.regular_file import NOT_REGULAR, open_regular

_CHUNK_BYTES = 1 << 20
_FIRST_CHUNK_BYTES = 1 << 16
_MISSING_ERRNOS = {errno.ENOENT, errno.ENOTDIR, NOT_REGULAR}


def lines(
    path: Path, offset: int, *, tail: bool = False, search: StreamSearch | None = None, max_step: int = MAX_STEP
) -> Iterator[tuple[AnyRecord | Unknown | None, int]]:
    """Yield (record, offset of the next line) for each line from ``offset`` on; record is None if the line is damaged.

    Args:
        path: the segment; nothing is yielded if it is missing or not a regular file.
        offset: the position of the first line to read, in bytes.
        tail: whether to also yield an incomplete last line (one without a newline), as a damaged one.
        search: where to pass over points of other streams: several of them are yielded as one ``PassedScalars``.
        max_step: see ``StreamSearch.passed``.

    Raises:
        RunFolderError: the file cannot be read.
    """
    fd = open_segment(path)
    if fd is None:
        return
    try:
        rest = b""
        skipping = False
        not_passed = offset
        # Callers that need only the first line read little more.
        size = _FIRST_CHUNK_BYTES
        while chunk := read_at(fd, path, offset + len(rest), size):
            size = _CHUNK_BYTES
            data = rest + chunk
            start = 0
            while (newline := data.find(b"\n", start)) >= 0:
                if skipping:
                    yield None, offset + newline + 1
                elif newline > start:
                    record = decode(data[start : newline + 1])
                    yield record, offset + newline + 1
                    if search is not None and isinstance(record, Scalars) and offset + newline >= not_passed:
                        point, end = search.passed(record, data, newline, max_step)
                        if point is None:
                            not_passed = offset + end
                        else:
                            newline = end
                            yield point, offset + newline + 1
                skipping = False
                start = newline + 1
            offset += start
            rest = data[start:]
            if len(rest) > MAX_LINE:
                # No line is that long: skip it without keeping it in memory.
                skipping = True
                offset += len(rest)
                rest = b""
        if tail and (rest or skipping):
            yield None, offset + len(rest)
    finally:
        os.close(fd)


def lines_backward(path: Path) -> Iterator[bytes]:
    """Yield the lines of a segment, the last one first, each with a newline; arguments and errors as for ``lines``."""
    fd = open_segment(path)
    if fd is None:
        return
    try:
        end, rest = os.fstat(fd).st_size, b""
        while end > 0:
            start = max(0, end - _FIRST_CHUNK_BYTES)
            first, *complete = (read_at(fd, path, start, end - start) + rest).split(b"\n")
            for line in reversed(complete):
                yield line + b"\n"
            # Data longer than the longest possible line is damaged.
            end, rest = start, first if len(first) <= MAX_LINE else b""
        yield rest + b"\n"
    finally:
        os.close(fd)


def open_segment(path: Path) -> int | None:
    """Open a segment for reading; return None if it is missing or not a regular file.

    Raises:
        RunFolderError: it cannot be opened.
    """
    try:
        return open_regular(path)
    except OSError as error:
        if error.errno in _MISSING_ERRNOS:
            return None
        # Skipping a file that temporarily cannot be opened would lose its records.
        raise _unreadable(path, error) from error


def read_at(fd: int, path: Path, offset: int, size: int = _CHUNK_BYTES) -> bytes:
    """Return up to ``size`` bytes at ``offset``; ``path`` is named in errors.

    Raises:
        RunFolderError: the file cannot be read.
    """
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot read {path} ({error.strerror})")
