"""Find where the attempts of a run begin, and which records later attempts supersede."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from telemetry.journal.codec import Unknown
from telemetry.journal.segment_lines import lines
from telemetry.journal.segments import segment_path, segments
from telemetry.records import SEQ_PER_SEGMENT, Alert, AnyRecord, Resumed, RunRecord, Scalars


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
    """

    def __init__(self, folder: Path) -> None:
        """Start without segments; ``update`` lists them."""
        self.segments: list[int] = []
        self._folder = folder
        self._first_records: dict[int, AnyRecord | Unknown] = {}
        self._last_valid_step: dict[int, int] = {}

    def update(self, *, recheck_newest: bool) -> None:
        """List the segments again.

        Args:
            recheck_newest: whether to look for first records even if no segment was added; the newest segment may have
                received its first record since the last call.

        Raises:
            RunFolderError: the folder or a segment cannot be read.
        """
        listed = segments(self._folder)
        if listed == self.segments and not recheck_newest:
            return
        self.segments = listed
        for number in listed:
            if number not in self._first_records and (first := first_record(self._folder, number)) is not None:
                self._first_records[number] = first
        self._last_valid_step.update(superseded_after(listed, self._first_records))

    def segment_at(self, number: int) -> int:
        """Return the last existing segment up to ``number``; if there is none, the first segment."""
        return max((s for s in self.segments if s <= number), default=self.segments[0])

    def has_own_records(self, segment: int) -> bool:
        """Return whether a segment has records with its own numbers, which follow all rewritten records."""
        return segment in self._first_records

    def is_superseded(self, record: AnyRecord) -> bool:
        """Return whether a later attempt resumed from an iteration before this record."""
        return isinstance(record, Scalars | Alert) and record.step > self._last_valid_step.get(
            record.seq // SEQ_PER_SEGMENT, record.step
        )
