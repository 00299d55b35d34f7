"""The journal's reading side: every record once, in order, whatever happened to the files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from telemetry.errors import JournalError, RunNotFound
from telemetry.journal import segment_path, segments
from telemetry.records import (
    MAX_LINE,
    SCHEMA,
    SEGMENT,
    AnyRecord,
    Closed,
    Resumed,
    RunRecord,
    Scalars,
    Unknown,
    decode,
)

_CHUNK = 1 << 20
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
    """Scalars beyond the iteration from which a later attempt went on."""
    unknown: int = 0
    """Records of a kind that this version does not know."""


def read_header(folder: Path, segment: int | None = None) -> RunRecord:
    """Give the run record of a segment, by default of the newest that has one.

    Raises:
        RunNotFound: there is no segment with a whole run record.
        JournalError: it was written by a newer version.
    """
    for number in [segment] if segment is not None else reversed(segments(folder)):
        for record, _ in _lines(segment_path(folder, number), 0):
            if isinstance(record, RunRecord):
                return record
            break
        _refuse_newer(segment_path(folder, number))
    msg = f"no run in {folder}: it holds no journal-<k>.jsonl with a run record"
    raise RunNotFound(msg)


class JournalReader:
    """Read a journal that may still be written to, from behind sequence number ``after``.

    Each ``read`` opens the file anew (so that NFS looks again) and goes on where the last one ended.

    Args:
        folder: the run folder.
        after: only records with a higher number are given.
        superseded: also give scalars that a later attempt has superseded.
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
        self._next = 0
        self._last = 0
        self._limits: dict[int, int] = {}
        self._listing: list[int] = []
        self._held_since: float | None = None

    def read(self, limit: int, *, live: bool) -> list[AnyRecord]:
        """Give up to ``limit`` further records (run records are not given: see ``read_header``).

        Args:
            limit: how many records at most.
            live: the journal may still grow, so a tail or a hole may yet be filled; without it what is not there
                now is passed over, and counted.
        """
        # Listed before the tail is read: a segment seen here means that its forerunner had its last byte.
        self._list()
        out: list[AnyRecord] = []
        while self._segment >= 0 and len(out) < limit:
            later = [s for s in self._listing if s > self._segment]
            if not self._read_segment(out, limit, final=bool(later) or not live) or not later:
                break
            self._enter(later[0])
        return out

    def _list(self) -> None:
        listing = segments(self._folder)
        if listing == self._listing:
            return
        self._listing = listing
        limits: dict[int, int] = {}
        step: int | None = None
        for number in reversed(listing):
            if step is not None:
                limits[number] = step
            resumed = _resumed(self._folder, number)
            if resumed is not None:
                step = resumed if step is None else min(step, resumed)
        self._limits = limits
        if self._segment < 0 and listing:
            start = self._after // SEGMENT
            self._enter(max((s for s in listing if s <= start), default=listing[0]))

    def _enter(self, segment: int) -> None:
        self._segment, self._offset, self._next = segment, 0, 1

    def _read_segment(self, out: list[AnyRecord], limit: int, *, final: bool) -> bool:
        """Read on in this segment; say whether its end was reached."""
        base = self._segment * SEGMENT
        damaged = 0
        end = self._offset
        for record, end in _lines(segment_path(self._folder, self._segment), self._offset):
            if record is None:
                damaged += 1
                continue
            n = record.seq - base
            if isinstance(record, RunRecord):
                n = 0
            elif n >= SEGMENT:
                damaged += 1
                continue
            elif n > self._next:
                if not final and not self._patience_is_out():
                    return False
                self._fill(out, base + self._next, record.seq)
            self._take(record, n, out)
            self._next = max(self._next, n + 1)
            self._offset, self._held_since = end, None
            self.skipped.damaged += damaged
            damaged = 0
            if len(out) >= limit:
                return False
        if final:
            self.skipped.damaged += damaged + _has_tail(segment_path(self._folder, self._segment), end)
            self._offset = max(self._offset, _size(segment_path(self._folder, self._segment)))
        return True

    def _take(self, record: AnyRecord | Unknown, n: int, out: list[AnyRecord]) -> None:
        if isinstance(record, RunRecord):
            return
        if n < self._next and record.seq <= self._last:
            self.skipped.repeated += 1
            return
        self._last = max(self._last, record.seq)
        if record.seq <= self._after:
            return
        if isinstance(record, Unknown):
            self.skipped.unknown += 1
        elif isinstance(record, Scalars) and self._is_superseded(record):
            self.skipped.superseded += 1
        else:
            out.append(record)

    def _is_superseded(self, record: Scalars) -> bool:
        return not self._keep_superseded and record.step > self._limits.get(record.seq // SEGMENT, record.step)

    def _fill(self, out: list[AnyRecord], first: int, end: int) -> None:
        """Bring the records ``first`` … ``end`` - 1 from the segments that may hold them again."""
        again = self._written_again(first, end)
        for seq in range(first, end):
            if seq in again:
                self._take(again[seq], SEGMENT, out)
            elif seq > self._after:
                self.skipped.lost += 1
        self._last = max(self._last, end - 1)

    def _written_again(self, first: int, end: int) -> dict[int, AnyRecord | Unknown]:
        again: dict[int, AnyRecord | Unknown] = {}
        for number in self._listing:
            if number <= self._segment:
                continue
            for record, _ in _lines(segment_path(self._folder, number), 0):
                if record is None or isinstance(record, RunRecord):
                    continue
                if record.seq >= number * SEGMENT:
                    break
                if first <= record.seq < end:
                    again.setdefault(record.seq, record)
        return again

    def _patience_is_out(self) -> bool:
        if self._held_since is None:
            self._held_since = self._clock()
        return self._clock() - self._held_since >= self._patience


def _resumed(folder: Path, segment: int) -> int | None:
    """Give the iteration from which a segment's attempt went on, None if it began or continued one."""
    for record, _ in _lines(segment_path(folder, segment), 0):
        if isinstance(record, Resumed) and record.seq // SEGMENT == segment:
            return record.step
        if isinstance(record, Scalars | Closed) and record.seq // SEGMENT == segment:
            return None
    return None


def _lines(path: Path, offset: int) -> Iterator[tuple[AnyRecord | Unknown | None, int]]:
    """Give (record or None for a damaged line, offset behind it) for each ended line from ``offset`` on."""
    fd = _open(path)
    if fd is None:
        return
    try:
        rest = b""
        skipping = False
        while chunk := os.pread(fd, _CHUNK, offset + len(rest)):
            data = rest + chunk
            start = 0
            while (cut := data.find(b"\n", start)) >= 0:
                if not skipping and cut > start:
                    yield decode(data[start : cut + 1]), offset + cut + 1
                elif skipping:
                    yield None, offset + cut + 1
                skipping = False
                start = cut + 1
            offset += start
            rest = data[start:]
            if len(rest) > MAX_LINE:
                # No line is that long: it is passed over without being kept.
                skipping = True
                offset += len(rest)
                rest = b""
    finally:
        os.close(fd)


def _open(path: Path) -> int | None:
    """Open a regular file; None where there is none, or something else stands in its place."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _has_tail(path: Path, end: int) -> bool:
    return _size(path) > end


class _Probe(msgspec.Struct):
    kind: str
    schema: int


def _refuse_newer(path: Path) -> None:
    fd = _open(path)
    if fd is None:
        return
    try:
        line = os.pread(fd, MAX_LINE, 0).partition(b"\n")[0]
    finally:
        os.close(fd)
    try:
        probe = msgspec.json.decode(line, type=_Probe)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if probe.kind == "run" and probe.schema > SCHEMA:
        msg = f"{path} has schema {probe.schema}, this version reads up to {SCHEMA}: update aimnet2mult"
        raise JournalError(msg)
