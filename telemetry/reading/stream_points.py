"""Read the points of one stream from a journal.

The whole journal is searched, but points of other streams are not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from telemetry.journal.run_attempts import first_record, superseded_after
from telemetry.journal.segment_lines import lines
from telemetry.journal.segments import segment_path
from telemetry.journal.stream_search import StreamSearch
from telemetry.records import SEQ_PER_SEGMENT, Scalars


def read_stream(folder: Path, numbers: list[int], stream: str) -> Iterator[Scalars]:
    """Yield the points of a stream in the segments ``numbers``, except superseded ones.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    first_records = {n: first for n in numbers[1:] if (first := first_record(folder, n)) is not None}
    last_valid_steps = superseded_after(numbers, first_records)
    search = StreamSearch([stream])
    for number in numbers:
        for record, _ in lines(segment_path(folder, number), 0, search=search):
            if not isinstance(record, Scalars) or record.stream != stream:
                continue
            if record.step <= last_valid_steps.get(record.seq // SEQ_PER_SEGMENT, record.step):
                yield record
