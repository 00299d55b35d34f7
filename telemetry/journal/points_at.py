"""Find the points recorded at the iteration from which a run resumes, reading the journal backward.

After a kill, an attempt resumes from the newest checkpoint, and may publish points at its iteration that an earlier
attempt has already recorded, such as a validation that was made up. Only records that are newer than the checkpoint are
read, however long the journal is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from telemetry.journal.codec import MAX_LINE, Unknown, decode
from telemetry.journal.run_attempts import Attempts
from telemetry.journal.segment_lines import open_segment, read_at
from telemetry.journal.segments import segment_path
from telemetry.records import AnyRecord, Scalars

_BLOCK_BYTES = 1 << 16


def streams_at(folder: Path, step: int) -> set[str]:
    """Return the streams that have a valid point at ``step``, which is the iteration of the newest checkpoint or later.

    The search ends at the newest valid point of an earlier iteration.

    Raises:
        RunFolderError: the folder or a segment cannot be read.
    """
    attempts = Attempts(folder)
    attempts.update(recheck_newest=False)
    streams: set[str] = set()
    for segment in reversed(attempts.segments):
        for record in _newest_first(segment_path(folder, segment)):
            if isinstance(record, Scalars) and not attempts.is_superseded(record):
                if record.step < step:
                    return streams
                if record.step == step:
                    streams.add(record.stream)
    return streams


def _newest_first(path: Path) -> Iterator[AnyRecord | Unknown | None]:
    """Yield the records of a segment in reverse order, None for damaged lines."""
    fd = open_segment(path)
    if fd is None:
        return
    try:
        end, rest = os.fstat(fd).st_size, b""
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            first, *lines = (read_at(fd, path, start, end - start) + rest).split(b"\n")
            for line in reversed(lines):
                yield decode(line + b"\n")
            # Data longer than the longest possible line is damaged.
            end, rest = start, first if len(first) <= MAX_LINE else b""
        yield decode(rest + b"\n")
    finally:
        os.close(fd)
