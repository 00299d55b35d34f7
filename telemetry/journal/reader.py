"""Read the journal: every record once and in order, whatever happened to the files.

After a disk fault, the writer starts a new segment and rewrites the records that were not durable; the new segment's
own records, with its own numbers, follow them. So a gap in the numbers of a segment may be filled by later segments. A
gap is final as soon as one of these has its own records, or the journal no longer grows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from telemetry.errors import JournalError, RunNotFound
from telemetry.journal.codec import Unknown, is_intact
from telemetry.journal.gaps import count_missing, starts_numbering
from telemetry.journal.run_attempts import Attempts
from telemetry.journal.segment_lines import lines, open_segment, read_at
from telemetry.journal.segments import segment_path, segments
from telemetry.journal.stream_search import PassedScalars, StreamSearch
from telemetry.journal.update_search import read_updates
from telemetry.metrics import Metric
from telemetry.records import SCHEMA, SEQ_PER_SEGMENT, AnyRecord, Resumed, RunRecord, RunUpdate, updated
from telemetry.run_folder.paths import local_path

GAP_TIMEOUT = 60.0
"""Time in seconds that a reader of a live journal waits for a gap to be filled; NFS may show gaps temporarily."""


class Skipped(msgspec.Struct):
    """Counts of skipped records by reason; every skipped record is counted.

    Attributes:
        damaged: lines that are torn, overwritten or too long.
        lost: records that, judging by the sequence numbers, are missing from all segments.
        repeated: records that had already been read and appear again, rewritten after a disk fault.
        superseded: scalars and alerts after the iteration from which a later attempt resumed.
        unknown: records of a kind that this version does not know.
        segments: segment files that are missing, judging by the segment numbers, or are not regular files.
    """

    damaged: int = 0
    lost: int = 0
    repeated: int = 0
    superseded: int = 0
    unknown: int = 0
    segments: int = 0


def read_header(folder: str | os.PathLike[str]) -> RunRecord:
    """Return the run record of the newest segment that has one.

    Args:
        folder: the run folder.

    Raises:
        RunNotFound: no segment has a complete run record.
        JournalError: the journal was written by a newer version.
        RunFolderError: a segment cannot be read.
    """
    run = local_path(folder)
    for number in reversed(segments(run)):
        segment = segment_path(run, number)
        head, _ = next(lines(segment, 0), (None, 0))
        if not isinstance(head, RunRecord):
            _reject_newer_schema(segment)
        elif head.schema > SCHEMA:
            raise _schema_error(segment, head.schema)
        else:
            return head
    why = "it contains no journal-<k>.jsonl with a run record" if run.is_dir() else "there is no such folder"
    msg = f"no run in {run}: {why}"
    raise RunNotFound(msg)


def read_description(folder: str | os.PathLike[str]) -> RunRecord:
    """Return the newest run record with all later additions: metrics that first appeared, and added parameters.

    Unlike ``read_header``, it searches the newest segment. Arguments and exceptions are those of ``read_header``.
    """
    header = read_header(folder)
    for update in read_updates(segment_path(local_path(folder), header.seq // SEQ_PER_SEGMENT)):
        header = updated(header, update)
    return header


def read_metrics(folder: Path) -> dict[str, Metric]:
    """Return the metrics declared by all attempts, by full name; later declarations override earlier ones.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    updates = (update for number in segments(folder) for update in read_updates(segment_path(folder, number)))
    return declared_metrics([*read_run_records(folder), *updates])


def read_run_records(folder: Path) -> list[RunRecord]:
    """Return the run record of each segment that has one; only the beginnings of the segments are read.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    heads = (next(lines(segment_path(folder, number), 0), (None, 0))[0] for number in segments(folder))
    return [head for head in heads if isinstance(head, RunRecord)]


def declared_metrics(descriptions: Iterable[RunRecord | RunUpdate]) -> dict[str, Metric]:
    """Return the metrics that run records and updates declare, by full name; later declarations override earlier."""
    metrics: dict[str, Metric] = {}
    for each in sorted(descriptions, key=lambda each: each.seq):
        metrics |= each.metrics
    return metrics


class JournalReader:
    """Read the records of a journal that may still be written to.

    Each ``read`` reopens the file (so that NFS refreshes it) and continues where the last one ended.

    Attributes:
        skipped: counts of the records skipped so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        after: int = 0,
        superseded: bool = False,
        streams: Collection[str] | None = None,
        gap_timeout: float = GAP_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to read without opening a file.

        Args:
            folder: the run folder.
            after: sequence number after which reading starts.
            superseded: whether to include scalars and alerts that a later attempt has superseded.
            streams: the streams whose points are needed; several points of other streams are returned as one
                ``PassedScalars``, which takes a fraction of the time. Damage to points passed over is not counted.
                None for all streams.
            gap_timeout: seconds to wait for each gap in a live journal to be filled.
            clock: monotonic clock in seconds.
        """
        self.skipped = Skipped()
        self._folder = folder
        self._after = after
        self._include_superseded = superseded
        self._search = None if streams is None else StreamSearch(streams)
        self._gap_timeout = gap_timeout
        self._clock = clock
        self._segment = -1
        self._offset = 0
        self._last_seq = 0
        self._attempts = Attempts(folder)
        self._was_live = False
        self._gap_since: float | None = None
        self._ready: list[AnyRecord] = []

    def read(self, limit: int, *, live: bool) -> list[AnyRecord]:
        """Return up to ``limit`` further records, without run records (see ``read_header``).

        Args:
            limit: maximum number of records.
            live: whether the journal may still grow. If so, reading stops at an incomplete last line or a new gap,
                which may still be completed; otherwise, such lines and gaps are skipped and counted.

        Raises:
            RunFolderError: a file cannot be read; the next call tries again.
        """
        # List before reading: once a newer segment is listed, the previous one is complete.
        self._attempts.update(recheck=(live or self._was_live) and self._next_segment() is not None)
        self._was_live = live
        if self._segment < 0 and self._attempts.segments:
            wanted = self._after // SEQ_PER_SEGMENT
            self._enter(self._attempts.segment_at(wanted), after=wanted - 1)
        records, self._ready = self._ready, []
        while self._segment >= 0 and len(records) < limit:
            later = self._next_segment()
            # Once a segment has its own records, it already contains everything rewritten from earlier ones.
            gaps_final = not live or self._attempts.has_own_records_after(self._segment)
            complete = later is not None or not live
            if not self._read_segment(records, limit, complete=complete, gaps_final=gaps_final) or later is None:
                break
            self._enter(later, after=self._segment)
        # Filling a gap may yield more records than requested.
        self._ready = records[limit:]
        return records[:limit]

    def is_superseded(self, record: AnyRecord) -> bool:
        """Return whether a later attempt, among those listed so far, resumed from an iteration before this record."""
        return self._attempts.is_superseded(record)

    def starts_attempt(self, record: Resumed) -> bool:
        """Return whether a record that has been read is the first one of an attempt, and not a copy of one."""
        return self._attempts.starts_attempt(record)

    def _enter(self, segment: int, *, after: int) -> None:
        """Continue at the start of ``segment``; any segments between ``after`` and ``segment`` are missing."""
        self.skipped.segments += max(0, segment - after - 1)
        self._segment, self._offset = segment, 0

    def _next_segment(self) -> int | None:
        return self._attempts.segment_after(self._segment)

    def _read_segment(self, records: list[AnyRecord], limit: int, *, complete: bool, gaps_final: bool) -> bool:
        """Append further records of the current segment to ``records``; return whether its end was reached.

        Stops when ``records`` has reached ``limit``, or before a gap that may still be filled. Damaged lines before a
        stop are counted only once reading passes them, because they may still become readable.

        Args:
            records: the list to extend.
            limit: length of ``records`` at which to stop.
            complete: whether the segment no longer grows, so that an incomplete last line is damaged.
            gaps_final: whether gaps in the segment can no longer be filled.
        """
        damaged, end = 0, self._offset
        for record, end in self._lines(tail=complete):
            if record is None or record.seq // SEQ_PER_SEGMENT > self._segment:
                damaged += 1
                continue
            if not isinstance(record, RunRecord):
                rewritten, lost = self._missing_before(record)
                is_gap = lost > 0 or (damaged > 0 and starts_numbering(record, self._known_up_to()))
                if is_gap and not gaps_final and not self._gap_timed_out():
                    return False
                for each in (*rewritten, record):
                    self._take(each, records)
                self.skipped.lost += lost
            self._pass(end, damaged)
            damaged = 0
            if len(records) >= limit:
                return False
        if complete:
            self._pass(end, damaged)
        return True

    def _lines(self, *, tail: bool) -> Iterator[tuple[AnyRecord | Unknown | None, int]]:
        # Points passed over may be among those that were written again because of a disk fault.
        search = None if self._attempts.rewritten else self._search
        max_step = self._attempts.last_valid_step(self._segment)
        path = segment_path(self._folder, self._segment)
        return lines(path, self._offset, tail=tail, search=search, max_step=max_step)

    def _pass(self, offset: int, damaged: int) -> None:
        """Continue at ``offset``; count the damaged lines before it."""
        self._offset, self._gap_since = offset, None
        self.skipped.damaged += damaged

    def _take(self, record: AnyRecord | Unknown, records: list[AnyRecord]) -> None:
        """Append ``record`` to ``records``, or count it as skipped."""
        if record.seq <= self._after:
            return
        if record.seq <= self._last_seq:
            self.skipped.repeated += _count(record)
            return
        self._last_seq = record.seq
        if isinstance(record, Unknown):
            self.skipped.unknown += 1
        elif not self._include_superseded and self.is_superseded(record):
            self.skipped.superseded += 1
        else:
            records.append(record)

    def _missing_before(self, record: AnyRecord | Unknown) -> tuple[list[AnyRecord | Unknown], int]:
        """Return the records missing before ``record`` that later segments contain, and the number of those lost."""
        known = self._known_up_to()
        if record.seq - _count(record) <= known:
            return [], 0
        rewritten = self._attempts.rewritten.read(known + 1, record.seq, after=self._segment)
        return rewritten, count_missing(known, [*rewritten, record])

    def _known_up_to(self) -> int:
        return max(self._last_seq, self._after)

    def _gap_timed_out(self) -> bool:
        """Return whether the current gap was first seen at least ``gap_timeout`` seconds ago."""
        if self._gap_since is None:
            self._gap_since = self._clock()
        return self._clock() - self._gap_since >= self._gap_timeout


def _count(record: AnyRecord | Unknown) -> int:
    """Return the number of records that ``record`` stands for."""
    return 1 + record.passed if isinstance(record, PassedScalars) else 1


class _Probe(msgspec.Struct):
    kind: str
    schema: int


_probe = msgspec.json.Decoder(_Probe)


def _reject_newer_schema(path: Path) -> None:
    """Raise JournalError if a segment begins with an intact run record of a newer version."""
    fd = open_segment(path)
    if fd is None:
        return
    try:
        line = b"".join(read_at(fd, path, 0).partition(b"\n")[:2])
    finally:
        os.close(fd)
    if not is_intact(line):
        return
    try:
        probe = _probe.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if probe.kind == "run" and probe.schema > SCHEMA:
        raise _schema_error(path, probe.schema)


def _schema_error(path: Path, schema: int) -> JournalError:
    return JournalError(f"{path} has schema {schema}, but this version reads only up to {SCHEMA}; update aimnet2mult")
