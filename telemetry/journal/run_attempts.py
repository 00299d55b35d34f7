"""Find where the attempts of a run begin, and which records later attempts supersede."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path

from telemetry.journal.codec import Unknown
from telemetry.journal.gaps import RewrittenRecords
from telemetry.journal.segment_lines import lines
from telemetry.journal.segments import segment_path, segments
from telemetry.records import MAX_STEP, SEQ_PER_SEGMENT, Alert, AnyRecord, Media, Resumed, RunRecord, Scalars


def first_record(folder: Path, segment: int) -> AnyRecord | Unknown | None:
    """Return the first record, after the run record, whose number belongs to this segment; None if there is none yet.

    It is a ``Resumed`` record if the segment begins an attempt that resumes the run.
    """
    for record, _ in lines(segment_path(folder, segment), 0):
        if record is not None and not isinstance(record, RunRecord) and record.seq // SEQ_PER_SEGMENT == segment:
            return record
    return None


def superseded_after(
    segment_numbers: Sequence[int], first_records: Mapping[int, AnyRecord | Unknown]
) -> dict[int, int]:
    """Return, for each segment with a later resume, the last iteration that is still valid in it.

    Args:
        segment_numbers: all segments, in order.
        first_records: by segment, the results of ``first_record`` that are not None.
    """
    last_valid: dict[int, int] = {}
    step: int | None = None
    for number in reversed(segment_numbers):
        if step is not None:
            last_valid[number] = step
        first = first_records.get(number)
        if isinstance(first, Resumed):
            step = first.step if step is None else min(step, first.step)
    return last_valid


class Attempts:
    """The segments of a journal that may still grow, and the records that its attempts supersede.

    Attributes:
        segments: the numbers of the segments at the last ``update``, in order.
        rewritten: the rewritten records at the start of these segments.
    """

    def __init__(self, folder: Path) -> None:
        """Start without segments; ``update`` lists them."""
        self.segments: list[int] = []
        self.rewritten = RewrittenRecords(folder)
        self._folder = folder
        self._first_records: dict[int, AnyRecord | Unknown] = {}
        self._newest_with_own = -1
        self._complete: set[int] = set()
        self._last_valid_step: dict[int, int] = {}

    def update(self, *, recheck: bool) -> None:
        """List the segments again, and read what precedes the own records of each segment.

        Args:
            recheck: whether to read segments again even if none was added; the newest segment may have received
                records since the last call, and damage may have been temporary.

        Raises:
            RunFolderError: the folder or a segment cannot be read.
        """
        # Others count as missing.
        listed = segments(self._folder, readable=True)
        if listed == self.segments and not recheck:
            return
        self.segments = listed
        for number in listed:
            if number not in self._complete:
                self._read_head(number)
        self._last_valid_step.update(superseded_after(listed, self._first_records))

    def _read_head(self, number: int) -> None:
        """Read a segment up to its first own record."""
        start, damaged = 0, False
        for record, end in lines(segment_path(self._folder, number), 0):
            if record is None:
                damaged = True
            elif not isinstance(record, RunRecord):
                segment = record.seq // SEQ_PER_SEGMENT
                if segment == number:
                    self._first_records.setdefault(number, record)
                    self._newest_with_own = max(self._newest_with_own, number)
                    if not damaged:
                        self._complete.add(number)
                    return
                if segment < number:
                    self.rewritten.add(record.seq, number, start)
            start = end

    def segment_at(self, number: int) -> int:
        """Return the last existing segment up to ``number``; if there is none, the first segment."""
        return max((s for s in self.segments if s <= number), default=self.segments[0])

    def segment_after(self, number: int) -> int | None:
        """Return the first segment later than ``number``; None if there is none."""
        position = bisect_right(self.segments, number)
        return self.segments[position] if position < len(self.segments) else None

    def has_own_records_after(self, number: int) -> bool:
        """Return whether a segment later than ``number`` has own records, which follow all rewritten records."""
        return self._newest_with_own > number

    def starts_attempt(self, record: Resumed) -> bool:
        """Return whether a record is the first own one of its segment; a segment without any is read again.

        Raises:
            RunFolderError: the folder or a segment cannot be read.
        """
        number = record.seq // SEQ_PER_SEGMENT
        if number in self.segments and number not in self._first_records:
            self.update(recheck=True)
        return self._first_records.get(number) == record

    def last_valid_step(self, segment: int) -> int:
        """Return the last iteration of a segment that no later attempt supersedes."""
        return self._last_valid_step.get(segment, MAX_STEP)

    def is_superseded(self, record: AnyRecord) -> bool:
        """Return whether a later attempt resumed from an iteration before this record."""
        valid = self.last_valid_step(record.seq // SEQ_PER_SEGMENT)
        return isinstance(record, Scalars | Alert | Media) and record.step > valid
