"""Gaps in the sequence numbers of a segment: records rewritten to later segments, and lost records.

Segment ``k`` begins with the records that were not durable in earlier segments (rewritten records), followed by its
own records, whose numbers start at k·10⁹.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from pathlib import Path

from telemetry.journal.codec import Unknown
from telemetry.journal.segment_lines import lines
from telemetry.journal.segments import segment_path
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord


class RewrittenRecords:
    """An index of the rewritten records, so that filling a gap does not require searching all later segments."""

    def __init__(self, folder: Path) -> None:
        """Start without records; ``add`` adds them."""
        self._folder = folder
        self._places: dict[int, tuple[int, int]] = {}
        self._seqs: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._seqs)

    def add(self, seq: int, segment: int, offset: int) -> None:
        """Note that a segment contains a rewritten record, whose line starts at ``offset``; later segments win."""
        if seq not in self._places:
            insort(self._seqs, seq)
        self._places[seq] = max(self._places.get(seq, (0, 0)), (segment, offset))

    def read(self, first: int, end: int, *, after: int) -> list[AnyRecord | Unknown]:
        """Return, in order, the records numbered ``first`` to ``end - 1`` that segments later than ``after`` contain.

        Raises:
            RunFolderError: a segment cannot be read.
        """
        found = []
        for seq in self._seqs[bisect_left(self._seqs, first) : bisect_left(self._seqs, end)]:
            segment, offset = self._places[seq]
            if segment > after:
                record, _ = next(lines(segment_path(self._folder, segment), offset), (None, 0))
                if record is not None and record.seq == seq:
                    found.append(record)
        return found


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
