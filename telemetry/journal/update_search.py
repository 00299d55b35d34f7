"""Find the additions to the description of a run in a segment, without decoding its other records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from telemetry.errors import RunFolderError
from telemetry.journal.codec import MAX_LINE, decode
from telemetry.journal.segment_lines import open_segment
from telemetry.records import RunUpdate

# The encoder writes a line in exactly one way.
_START = b'{"kind":"update",'


def read_updates(path: Path) -> Iterator[RunUpdate]:
    """Yield the additions in a segment, in order; none if it is missing or not a regular file.

    Raises:
        RunFolderError: the file cannot be read.
    """
    fd = open_segment(path)
    if fd is None:
        return
    try:
        with os.fdopen(fd, "rb") as file:
            # Limited, because a damaged file may have a line of any length.
            for line in iter(lambda: file.readline(MAX_LINE + 1), b""):
                record = decode(line) if line.startswith(_START) else None
                if isinstance(record, RunUpdate):
                    yield record
    except OSError as error:
        msg = f"cannot read {path} ({error.strerror})"
        raise RunFolderError(msg) from error
