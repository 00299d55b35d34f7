"""The journal's reading side: every record once, in order, whatever happened to the files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from telemetry.errors import JournalError, RunNotFound
from telemetry.journal.codec import Unknown, is_whole
from telemetry.journal.segment_lines import lines, open_segment, read_at
from telemetry.journal.segments import segment_path, segments
from telemetry.metrics import Metric
from telemetry.records import SCHEMA, SEQ_PER_SEGMENT, Alert, AnyRecord, Resumed, RunRecord, Scalars

PATIENCE = 60.0
"""Seconds that a reader of a live journal waits for a damaged stretch to heal (NFS shows such for a while)."""


class Skipped(msgspec.Struct):
    """What a reader passed over, and why; nothing is passed over without being counted here."""

    damaged: int = 0
    """Lines that are not whole: torn, overwritten, too long."""
    lost: int = 0
    """Records that the numbering says were written, and that no segment holds."""
    repeated: int = 0
    """Records that were written again after a disk fault, and were here already."""
    superseded: int = 0
    """Scalars and alerts beyond the iteration from which a later attempt went on."""
    unknown: int = 0
    """Records of a kind that this version does not know."""
    segments: int = 0
    """Files that the numbering says there were, and that are gone."""


def read_header(folder: Path) -> RunRecord:
    """Give the run record of the newest segment that has one.

    Raises:
        RunNotFound: there is no segment with a whole run record.
        JournalError: it was written by a newer version.
        RunFolderError: a segment is there and cannot be read.
    """
    for number in reversed(segments(folder)):
        path = segment_path(folder, number)
        head, _ = next(lines(path, 0), (None, 0))
        if not isinstance(head, RunRecord):
            _refuse_newer(path)
        elif head.schema > SCHEMA:
            raise _too_new(path, head.schema)
        else:
            return head
    msg = f"no run in {folder}: it holds no journal-<k>.jsonl with a run record"
    raise RunNotFound(msg)


def read_metrics(folder: Path) -> dict[str, Metric]:
    """Give what the attempts declare together, by full name; where two differ, what the newer one says.

    Raises:
        RunFolderError: a segment is there and cannot be read.
    """
    metrics: dict[str, Metric] = {}
    for number in segments(folder):
        head, _ = next(lines(segment_path(folder, number), 0), (None, 0))
        if isinstance(head, RunRecord):
            metrics |= head.metrics
    return metrics


class JournalReader:
    """Read a journal that may still be written to, from behind sequence number ``after``.

    Each ``read`` opens the file anew (so that NFS looks again) and goes on where the last one ended.

    Args:
        folder: the run folder.
        after: only records with a higher number are given.
        superseded: also give scalars and alerts that a later attempt has superseded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        after: int = 0,
        superseded: bool = False,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.skipped = Skipped()
        self._folder = folder
        self._after = after
        self._keep_superseded = superseded
        self._patience = patience
        self._clock = clock
        self._segment = -1
        self._offset = 0
        self._last = 0
        self._listing: list[int] = []
        self._starts: dict[int, AnyRecord | Unknown] = {}
        self._limits: dict[int, int] = {}
        self._held_since: float | None = None
        self._ready: list[AnyRecord] = []

    def read(self, limit: int, *, live: bool) -> list[AnyRecord]:
        """Give up to ``limit`` further records (run records are not given: see ``read_header``).

        Args:
            limit: how many records at most.
            live: the journal may still grow, so a tail or a hole may yet be filled; without it what is not there
                now is passed over, and counted.

        Raises:
            RunFolderError: a file is there and cannot be read; the next call tries again.
        """
        # Listed before the tail is read: a segment seen here means that its forerunner had its last byte.
        self._list(live=live)
        out, self._ready = self._ready, []
        while self._segment >= 0 and len(out) < limit:
            later = [s for s in self._listing if s > self._segment]
            # What was not durable in this segment is what a later one begins with, before its own first record.
            settled = not live or any(s in self._starts for s in later)
            if not self._read_segment(out, limit, final=bool(later) or not live, settled=settled) or not later:
                break
            self._enter(later[0], after=self._segment)
        # A hole that is filled may bring more than was asked for.
        self._ready = out[limit:]
        return out[:limit]

    def _list(self, *, live: bool) -> None:
        listing = segments(self._folder)
        # A segment that has just been made may not say yet where its attempt began: it is asked again.
        newest = listing[-1] if listing else -1
        if listing == self._listing and not (live and self._segment < newest):
            return
        self._listing = listing
        for number in listing:
            if number not in self._starts and (start := first_record(self._folder, number)) is not None:
                self._starts[number] = start
        self._limits.update(superseded_after(listing, self._starts))
        if self._segment < 0 and listing:
            first = self._after // SEQ_PER_SEGMENT
            self._enter(max((s for s in listing if s <= first), default=listing[0]), after=first - 1)

    def _enter(self, segment: int, *, after: int) -> None:
        self.skipped.segments += max(0, segment - after - 1)
        self._segment, self._offset = segment, 0

    def _read_segment(self, out: list[AnyRecord], limit: int, *, final: bool, settled: bool) -> bool:
        """Read on in this segment; say whether its end was reached.

        Args:
            out: takes the records.
            limit: how many there may be in it before reading ends.
            final: this segment grows no more.
            settled: nor can a hole in it be filled by what is still to be written.
        """
        damaged = 0
        end = self._offset
        for record, end in lines(segment_path(self._folder, self._segment), self._offset, tail=final):
            if record is None or record.seq // SEQ_PER_SEGMENT > self._segment:
                damaged += 1
                continue
            if not isinstance(record, RunRecord):
                again, lost = self._missing_before(record)
                if (lost or (damaged and self._is_first(record))) and not settled and not self._patience_is_out():
                    return False
                for each in (*again, record):
                    self._take(each, out)
                self.skipped.lost += lost
            self._offset, self._held_since = end, None
            self.skipped.damaged += damaged
            damaged = 0
            if len(out) >= limit:
                return False
        if final:
            self._offset = end
            self.skipped.damaged += damaged
        return True

    def _take(self, record: AnyRecord | Unknown, out: list[AnyRecord]) -> None:
        if record.seq <= self._after:
            return
        if record.seq <= self._last:
            self.skipped.repeated += 1
            return
        self._last = record.seq
        if isinstance(record, Unknown):
            self.skipped.unknown += 1
        elif not self._keep_superseded and self.is_superseded(record):
            self.skipped.superseded += 1
        else:
            out.append(record)

    def is_superseded(self, record: AnyRecord) -> bool:
        """Say whether a later attempt, as far as it is known by now, went on from before this record."""
        return isinstance(record, Scalars | Alert) and record.step > self._limits.get(
            record.seq // SEQ_PER_SEGMENT, record.step
        )

    def _is_first(self, record: AnyRecord | Unknown) -> bool:
        """Say whether another numbering begins, so that nobody knows if something is missing of the one before."""
        return record.seq // SEQ_PER_SEGMENT > max(self._last, self._after) // SEQ_PER_SEGMENT

    def _missing_before(self, record: AnyRecord | Unknown) -> tuple[list[AnyRecord | Unknown], int]:
        """Give what belongs before ``record`` and stands in a later segment, and how many stand nowhere."""
        known = max(self._last, self._after)
        if record.seq <= known + 1:
            return [], 0
        found = self._written_again(known + 1, record.seq)
        again = [found[seq] for seq in sorted(found)]
        lost = 0
        for each in (*again, record):
            lost += each.seq - max(known, each.seq // SEQ_PER_SEGMENT * SEQ_PER_SEGMENT) - 1
            known = each.seq
        return again, lost

    def _written_again(self, first: int, end: int) -> dict[int, AnyRecord | Unknown]:
        again: dict[int, AnyRecord | Unknown] = {}
        for number in self._listing:
            if number <= self._segment:
                continue
            for record, _ in lines(segment_path(self._folder, number), 0):
                if record is None or isinstance(record, RunRecord):
                    continue
                if record.seq >= number * SEQ_PER_SEGMENT:
                    break
                if first <= record.seq < end:
                    again.setdefault(record.seq, record)
        return again

    def _patience_is_out(self) -> bool:
        if self._held_since is None:
            self._held_since = self._clock()
        return self._clock() - self._held_since >= self._patience


def superseded_after(listing: Sequence[int], starts: Mapping[int, AnyRecord | Unknown]) -> dict[int, int]:
    """Give for each segment that a later attempt went on from the last iteration that counts in it.

    Args:
        listing: the segments there are, in order.
        starts: the first record of each, as ``first_record`` gives it.
    """
    out: dict[int, int] = {}
    step: int | None = None
    for number in reversed(listing):
        if step is not None:
            out[number] = step
        start = starts.get(number)
        if isinstance(start, Resumed):
            step = start.step if step is None else min(step, start.step)
    return out


def first_record(folder: Path, segment: int) -> AnyRecord | Unknown | None:
    """Give the first record that has its number from this segment, None if there is none yet.

    It is a ``Resumed`` where an attempt that goes on began.
    """
    for record, _ in lines(segment_path(folder, segment), 0):
        if record is not None and not isinstance(record, RunRecord) and record.seq // SEQ_PER_SEGMENT == segment:
            return record
    return None


class _Probe(msgspec.Struct):
    kind: str
    schema: int


_probe = msgspec.json.Decoder(_Probe)


def _refuse_newer(path: Path) -> None:
    """Tell a run record of a newer version, which this one cannot decode, from damage."""
    fd = open_segment(path)
    if fd is None:
        return
    try:
        line = b"".join(read_at(fd, path, 0).partition(b"\n")[:2])
    finally:
        os.close(fd)
    if not is_whole(line):
        return
    try:
        probe = _probe.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if probe.kind == "run" and probe.schema > SCHEMA:
        raise _too_new(path, probe.schema)


def _too_new(path: Path, schema: int) -> JournalError:
    return JournalError(f"{path} has schema {schema}, this version reads up to {SCHEMA}: update aimnet2mult")
