"""Summarize a run for a list, from the head and the tail of its journal.

Even for a journal of several gigabytes, little more than the last 64 KiB is read; only ``stream_points`` searches the
whole journal.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import msgspec

from telemetry.journal.codec import MAX_LINE, decode
from telemetry.journal.reader import read_header, read_metrics
from telemetry.journal.segment_lines import open_segment, read_at
from telemetry.journal.segments import segment_path, segments
from telemetry.metrics import UNDECLARED, direction
from telemetry.reading.best_value import BestValue, find_best_value
from telemetry.records import SEQ_PER_SEGMENT, Alert, AnyMedia, Closed, Resumed, RunRecord, RunUpdate, Scalars, Status
from telemetry.run_folder.paths import delivered_sinks, progress_path
from telemetry.run_folder.run_status import RunStatus, run_status
from telemetry.run_folder.sink_progress import read_progress
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

_TAIL_SIZES = (1 << 16, 4 * MAX_LINE)
"""Bytes read from the end of a segment; the larger size is used only if the smaller one contains no whole record."""
_RECENT_POINTS = 50
"""Number of points whose intervals are compared."""
_KnownRecord = Scalars | Alert | AnyMedia | Resumed | RunUpdate | Closed


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as one line of a list.

    Attributes:
        folder: the run folder.
        header: the newest attempt's run record; with all metrics if it does not declare the requested one.
        status: status of the run.
        step: the last iteration that has a point; 0 if there is none.
        time: time of the last record, in milliseconds since 1970; start of the run if there is none.
        point_time: time of the last point, in ms since 1970; 0 if there is none.
        longest_interval: longest time between the last points, in ms; 0 if there are less than two.
        best: best value of the requested metric; None if it has no finite value, or no direction.
        behind: sinks with pending records; a question mark follows the name of a sink whose progress cannot be read.
    """

    folder: Path
    header: RunRecord
    status: RunStatus
    step: int
    time: int
    point_time: int = 0
    longest_interval: int = 0
    best: BestValue | None
    behind: list[str]


def summarize(folder: Path, metric: str | None) -> RunSummary:
    """Return the summary of a run, with the best value of ``metric`` (full name) unless it is None.

    Raises:
        RunNotFound, JournalError, RunFolderError: see ``read_run``.
    """
    header = read_header(folder)
    if metric is not None and metric not in header.metrics:
        # It may have been declared later, or by an earlier attempt.
        header = msgspec.structs.replace(header, metrics=read_metrics(folder))
    numbers = segments(folder)
    last = _LastRecords(folder, numbers)
    return RunSummary(
        folder=folder,
        header=header,
        status=run_status(last.closed, TrainerLivenessProbe(folder)),
        step=last.step,
        time=last.time or header.started,
        point_time=last.point_times[-1] if last.point_times else 0,
        longest_interval=max((later - earlier for earlier, later in pairwise(last.point_times)), default=0),
        best=None if metric is None else _best_value(folder, header, numbers, metric),
        behind=[entry for name in _sinks(folder, header) if (entry := _behind_entry(folder, name, last.seq))],
    )


def _best_value(folder: Path, header: RunRecord, numbers: list[int], metric: str) -> BestValue | None:
    better = direction(metric, header.metrics.get(metric, UNDECLARED))
    return None if better is None else find_best_value(folder, numbers, metric, better)


class _LastRecords:
    """The state of a run according to the last records of its journal.

    Attributes:
        closed: how the newest attempt ended; None if the journal does not record it.
        time: time of the last record, in milliseconds since 1970; 0 if there is none.
        step: the last iteration that has a point.
        seq: sequence number of the last record to be delivered to sinks.
        point_times: times of the last points, in ms since 1970.
    """

    def __init__(self, folder: Path, numbers: list[int]) -> None:
        self.closed: Status | None = None
        self.step = self.time = self.seq = 0
        self.point_times: list[int] = []
        for number in reversed(numbers):
            records = _read_tail(segment_path(folder, number), number)
            if records and not self.time:
                end = records[-1]
                self.time = end.time
                self.closed = end.status if isinstance(end, Closed) else None
            for record in records:
                if not isinstance(record, Closed):
                    self.seq = max(self.seq, record.seq)
                if not isinstance(record, Closed | RunUpdate):
                    self.step = record.step if isinstance(record, Resumed) else max(self.step, record.step)
            self.point_times = [record.time for record in records if isinstance(record, Scalars)][-_RECENT_POINTS:]
            # A segment started after a disk fault may still be empty; if so, use the previous one.
            if self.seq:
                break


def _read_tail(path: Path, number: int) -> list[_KnownRecord]:
    """Return the last records of a segment: at least one, unless it has none."""
    fd = open_segment(path)
    if fd is None:
        return []
    try:
        size = os.fstat(fd).st_size
        for window in _TAIL_SIZES:
            start = max(0, size - window)
            data = read_at(fd, path, start, window)
            # Unless the window starts at the beginning of the file, its first line is incomplete.
            whole = data if start == 0 else data.partition(b"\n")[2]
            decoded = (decode(line + b"\n") for line in whole.split(b"\n"))
            records: list[_KnownRecord] = [
                r for r in decoded if isinstance(r, _KnownRecord) and r.seq // SEQ_PER_SEGMENT <= number
            ]
            if start == 0 or any(not isinstance(r, Closed) for r in records):
                break
    finally:
        os.close(fd)
    return records


def _sinks(folder: Path, header: RunRecord) -> list[str]:
    return sorted({*header.sinks, *delivered_sinks(folder)})


def _behind_entry(folder: Path, name: str, last_seq: int) -> str:
    """Return the entry for one sink in ``RunSummary.behind``; empty if it has all records."""
    progress = read_progress(folder, name)
    if progress is None and _exists(progress_path(folder, name)):
        return f"{name}?"
    if progress is None:
        return name if last_seq else ""
    return name if progress.cursor.accepted < last_seq or progress.is_elsewhere else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True
