"""Find the newest points of a run, reading the journal backward.

What a resume needs from the journal is near its end, and is found quickly however long the journal is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from telemetry.journal.codec import decode, stream_mark
from telemetry.journal.run_attempts import Attempts
from telemetry.journal.segment_lines import lines_backward
from telemetry.journal.segments import segment_path
from telemetry.records import Media, Scalars

MAX_POINTS = 10_000
"""Maximum number of points that ``newest_points`` returns, which takes a few tenths of a second."""
MAX_BYTES = 64 << 20
"""Maximum part of the journal that ``newest_points`` searches, in bytes."""


def streams_at(folder: Path, step: int) -> set[str]:
    """Return the streams with a valid point, and the names of media, at ``step``.

    It is the iteration of the newest checkpoint or later.

    After a kill, an attempt resumes from the newest checkpoint, and may publish points at its iteration that an earlier
    attempt has already recorded, such as a validation that was made up. The search ends at the newest valid point of an
    earlier iteration.

    Raises:
        RunFolderError: the folder or a segment cannot be read.
    """
    attempts = _attempts(folder)
    streams: set[str] = set()
    for line in _lines(folder, attempts):
        record = decode(line)
        if not isinstance(record, Scalars | Media) or attempts.is_superseded(record):
            continue
        if record.step == step:
            streams.add(record.stream if isinstance(record, Scalars) else record.name)
        elif record.step < step and isinstance(record, Scalars):
            return streams
    return streams


def last_step(folder: Path) -> int:
    """Return the highest iteration among the newest valid points and media; 0 if there are none.

    Evaluations after training may have published points of earlier iterations.

    Raises:
        RunFolderError: the folder or a segment cannot be read.
    """
    attempts = _attempts(folder)
    records = islice(map(decode, _lines(folder, attempts)), MAX_POINTS)
    return max((r.step for r in records if isinstance(r, Scalars | Media) and not attempts.is_superseded(r)), default=0)


def newest_points(
    folder: Path,
    streams: Collection[str],
    step: int,
    *,
    max_points: int = MAX_POINTS,
    max_bytes: int = MAX_BYTES,
) -> list[Scalars]:
    """Return the newest valid points of some streams up to iteration ``step``, oldest first.

    Args:
        folder: the run folder.
        streams: the names of the streams.
        step: the last iteration.
        max_points: maximum number of points, of all streams together.
        max_bytes: where the search ends, in bytes from the end of the journal.

    Raises:
        RunFolderError: the folder or a segment cannot be read.
    """
    marks = [stream_mark(stream) for stream in streams]
    attempts = _attempts(folder)
    # Records may have been written again, to a later segment.
    points: dict[int, Scalars] = {}
    for line in _lines(folder, attempts):
        max_bytes -= len(line)
        if max_bytes < 0 or len(points) == max_points:
            break
        point = _point(line, marks)
        if point is not None and point.step <= step and not attempts.is_superseded(point):
            points[point.seq] = point
    return [points[seq] for seq in sorted(points)]


def _point(line: bytes, marks: Collection[bytes]) -> Scalars | None:
    """Return the point in a line that contains one of ``marks``."""
    record = decode(line) if any(mark in line for mark in marks) else None
    return record if isinstance(record, Scalars) else None


def _attempts(folder: Path) -> Attempts:
    attempts = Attempts(folder)
    attempts.update(recheck=False)
    return attempts


def _lines(folder: Path, attempts: Attempts) -> Iterator[bytes]:
    """Yield the lines of the journal, newest first."""
    for segment in reversed(attempts.segments):
        yield from lines_backward(segment_path(folder, segment))
