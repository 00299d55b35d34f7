"""Read the points of some streams from a journal.

The whole journal is searched, but points of other streams are not decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from telemetry.journal.run_attempts import first_record, superseded_after
from telemetry.journal.segment_lines import lines
from telemetry.journal.segments import segment_path, segments
from telemetry.journal.stream_search import StreamSearch
from telemetry.records import SEQ_PER_SEGMENT, Resumed, Scalars


def read_streams(folder: Path, numbers: list[int], streams: Collection[str]) -> Iterator[Scalars]:
    """Yield the points of some streams in the segments ``numbers``, except superseded ones.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    first_records = {n: first for n in numbers[1:] if (first := first_record(folder, n)) is not None}
    last_valid_steps = superseded_after(numbers, first_records)
    for record in _all_points(folder, numbers, streams):
        if record.step <= last_valid_steps.get(record.seq // SEQ_PER_SEGMENT, record.step):
            yield record


def read_history(folder: Path, stream: str) -> list[Scalars | Resumed]:
    """Return all points of a stream in a run folder, also superseded ones, and the starts of later attempts, in order.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    numbers = segments(folder)
    firsts = (first_record(folder, number) for number in numbers)
    found: dict[int, Scalars | Resumed] = {first.seq: first for first in firsts if isinstance(first, Resumed)}
    # After a disk fault, a segment contains copies of earlier records.
    found |= {record.seq: record for record in _all_points(folder, numbers, [stream])}
    return [found[seq] for seq in sorted(found)]


def _all_points(folder: Path, numbers: Sequence[int], streams: Collection[str]) -> Iterator[Scalars]:
    search = StreamSearch(streams)
    for number in numbers:
        for record, _ in lines(segment_path(folder, number), 0, search=search):
            if isinstance(record, Scalars) and record.stream in streams:
                yield record
