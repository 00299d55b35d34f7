"""Gaps in the sequence numbers of a segment: records rewritten to later segments, and lost records.

Segment ``k`` begins with the records that were not durable in earlier segments (rewritten records), followed by its
own records, whose numbers start at k·10⁹.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from telemetry.journal.codec import Unknown
from telemetry.journal.segment_lines import lines
from telemetry.journal.segments import segment_path
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, RunRecord


def rewritten_records(folder: Path, segments: Iterable[int], first: int, end: int) -> list[AnyRecord | Unknown]:
    """Return, in order, the records numbered ``first`` to ``end - 1`` that were rewritten to the given segments."""
    found: dict[int, AnyRecord | Unknown] = {}
    for segment in segments:
        for record, _ in lines(segment_path(folder, segment), 0):
            if record is None or isinstance(record, RunRecord):
                continue
            if record.seq >= segment * SEQ_PER_SEGMENT:
                break
            if first <= record.seq < end:
                found.setdefault(record.seq, record)
    return [found[seq] for seq in sorted(found)]


def count_missing(last_seq: int, records: Iterable[AnyRecord | Unknown]) -> int:
    """Return how many numbers are missing after ``last_seq`` and between the records.

    Numbers missing at the end of a segment cannot be known, and are not counted.
    """
    missing = 0
    for record in records:
        segment_start = record.seq // SEQ_PER_SEGMENT * SEQ_PER_SEGMENT
        missing += record.seq - max(last_seq, segment_start) - 1
        last_seq = record.seq
    return missing


def starts_numbering(record: AnyRecord | Unknown, last_seq: int) -> bool:
    """Return whether ``record`` is the first one read whose number belongs to a new segment.

    If so, damage before it may hide records at the end of the previous segment.
    """
    return record.seq // SEQ_PER_SEGMENT > last_seq // SEQ_PER_SEGMENT
