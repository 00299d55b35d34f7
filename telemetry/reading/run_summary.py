"""What a list of runs says of each, read from the head and the tail of its journal.

Of a journal of gigabytes, little more than its last 64 KiB are read, and for the best validation those lines that name
the stream: all others are only searched for it, neither checked nor decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from telemetry.journal.attempts import first_record, superseded_after
from telemetry.journal.codec import MAX_LINE, decode
from telemetry.journal.reader import read_header
from telemetry.journal.segment_lines import open_segment, read_at
from telemetry.journal.segments import segment_path, segments
from telemetry.records import SEQ_PER_SEGMENT, Alert, Closed, Resumed, RunRecord, Scalars, Status
from telemetry.run_folder.heartbeat import TrainerLivenessProbe
from telemetry.run_folder.paths import delivered_sinks, progress_path
from telemetry.run_folder.run_status import RunStatus, run_status
from telemetry.run_folder.sink_progress import read_progress

_TAILS = (1 << 16, 4 * MAX_LINE)
"""How much of a segment's end is read; the more only if there is no whole record in the less."""
_CHUNK = 1 << 20
_Told = Scalars | Alert | Resumed | Closed


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest finite value of a metric, and the first iteration that has it."""

    value: float
    step: int


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run at a summarize.

    Attributes:
        folder: the run folder.
        header: the newest attempt's run record.
        status: how the run stands.
        step: the last iteration that has a point; 0 if there is none.
        time: of the last record, in ms since 1970; of the start where there is none.
        best: of the metric that was asked for; None if there is no finite value of it.
        behind: the sinks that have not got all records; with a question mark where that cannot be read.
    """

    folder: Path
    header: RunRecord
    status: RunStatus
    step: int
    time: int
    best: Best | None
    behind: list[str]


def summarize(folder: Path, metric: str | None) -> RunSummary:
    """Look at a run, and at the best value of a metric (by its full name; None for none).

    Raises:
        RunNotFound, JournalError, RunFolderError: see ``read_run``.
    """
    header = read_header(folder)
    numbers = segments(folder)
    last = _Last(folder, numbers)
    return RunSummary(
        folder=folder,
        header=header,
        status=run_status(last.closed, TrainerLivenessProbe(folder)),
        step=last.step,
        time=last.time or header.started,
        best=None if metric is None else _best(folder, numbers, metric),
        behind=[told for name in _sinks(folder, header) if (told := _behind(folder, name, last.seq))],
    )


class _Last:
    """What the last records tell: how the run ended, when, at which iteration, and what sinks are to have got."""

    def __init__(self, folder: Path, numbers: list[int]) -> None:
        self.closed: Status | None = None
        self.step = self.time = self.seq = 0
        for number in reversed(numbers):
            records = _tail(segment_path(folder, number), number)
            if records and not self.time:
                end = records[-1]
                self.time = end.time
                self.closed = end.status if isinstance(end, Closed) else None
            for record in records:
                if not isinstance(record, Closed):
                    self.seq = max(self.seq, record.seq)
                    self.step = record.step if isinstance(record, Resumed) else max(self.step, record.step)
            # One that was begun after a fault may have nothing yet.
            if self.seq:
                break


def _tail(path: Path, number: int) -> list[_Told]:
    """Give the last records of a segment, at least one where it has any."""
    fd = open_segment(path)
    if fd is None:
        return []
    try:
        size = os.fstat(fd).st_size
        for window in _TAILS:
            start = max(0, size - window)
            data = read_at(fd, path, start, window)
            # What stands before the first newline is the end of a line, unless it is the whole of the first one.
            whole = data if start == 0 else data.partition(b"\n")[2]
            decoded = (decode(line + b"\n") for line in whole.split(b"\n"))
            records = [r for r in decoded if isinstance(r, _Told) and r.seq // SEQ_PER_SEGMENT <= number]
            if start == 0 or any(not isinstance(r, Closed) for r in records):
                break
    finally:
        os.close(fd)
    return records


def _sinks(folder: Path, header: RunRecord) -> list[str]:
    return sorted({*header.sinks, *delivered_sinks(folder)})


def _behind(folder: Path, name: str, seq: int) -> str:
    progress = read_progress(folder, name)
    if progress is None and _is_there(progress_path(folder, name)):
        return f"{name}?"
    if progress is None:
        return name if seq else ""
    return name if progress.cursor.accepted < seq or progress.is_elsewhere else ""


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True


def _best(folder: Path, numbers: list[int], metric: str) -> Best | None:
    stream, _, name = metric.partition("/")
    starts = {n: start for n in numbers[1:] if (start := first_record(folder, n)) is not None}
    counts = superseded_after(numbers, starts)
    best: Best | None = None
    for number in numbers:
        for record in _of_stream(segment_path(folder, number), stream):
            value = record.values.get(name, math.nan)
            limit = counts.get(record.seq // SEQ_PER_SEGMENT, record.step)
            if record.step <= limit and math.isfinite(value) and (best is None or value < best.value):
                best = Best(value=value, step=record.step)
    return best


def _of_stream(path: Path, stream: str) -> Iterator[Scalars]:
    """Give the records of one stream; there is no other way of writing its name in a journal's lines."""
    mark = b'"stream":' + msgspec.json.encode(stream)
    for block in _blocks(path):
        at = block.find(mark)
        while at >= 0:
            end = block.find(b"\n", at) + 1
            record = decode(block[block.rfind(b"\n", 0, at) + 1 : end])
            if isinstance(record, Scalars) and record.stream == stream:
                yield record
            at = block.find(mark, end)


def _blocks(path: Path) -> Iterator[bytes]:
    """Give a segment in blocks of whole lines."""
    fd = open_segment(path)
    if fd is None:
        return
    try:
        offset, rest = 0, b""
        while chunk := read_at(fd, path, offset, _CHUNK):
            offset += len(chunk)
            head, newline, tail = chunk.rpartition(b"\n")
            if newline:
                yield rest + head + newline
                rest = tail
            else:
                # What is longer than a line can be is damage.
                rest = rest + chunk if len(rest) + len(chunk) <= MAX_LINE else b""
    finally:
        os.close(fd)
