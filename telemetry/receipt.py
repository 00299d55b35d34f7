"""What became of a run's records: how many were offered, journaled, delivered, and are left, for each sink."""

from __future__ import annotations

import shlex
from bisect import bisect_right
from pathlib import Path

import msgspec

from telemetry.alive import Counts, read_alive
from telemetry.progress import Progress, delivered_sinks, read_progress
from telemetry.reader import JournalReader, Skipped, read_header
from telemetry.records import Alert, Closed, Resumed, Scalars, Status


class SinkReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """One sink's part, in records."""

    name: str
    delivered: int
    left: int
    progress: Progress


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run's records.

    Attributes:
        folder: the run folder.
        status: how the newest attempt ended, None if its journal does not say.
        step: the last iteration that has a point.
        journaled: records of all attempts that the journal holds, without those that were superseded.
        counts: what the newest attempt's bus was given.
        skipped: what could not be read, and what was passed over.
        sinks: each sink that is or was delivered to.
    """

    folder: Path
    status: Status | None
    step: int
    journaled: int
    counts: Counts
    skipped: Skipped
    sinks: list[SinkReceipt]

    def __str__(self) -> str:
        """Give the receipt as lines of text, with the command that delivers what is left."""
        counts = self.counts
        lines = [f"telemetry: {counts.offered} records offered, {counts.journaled} journaled in {self.folder}"]
        unwritten = counts.offered - counts.journaled
        if unwritten:
            lines[0] += f"; {unwritten} NOT WRITTEN"
        lines += [f"  {sink.name}: {_sink_line(sink)}" for sink in self.sinks]
        behind = [sink.name for sink in self.sinks if sink.left]
        if behind:
            run = shlex.quote(str(self.folder))
            lines.append(f"  deliver the rest: telemetry sync {run} --telemetry-sinks {','.join(behind)}")
        return "\n".join(lines)


def read_receipt(folder: Path) -> Receipt:
    """Read what became of a run's records, from outside of its training.

    Raises:
        RunFolderError: the folder, or a file of the journal in it, cannot be read.
    """
    alive = read_alive(folder)
    return receipt(folder, Counts() if alive is None else alive.counts)


def unread_receipt(folder: Path, counts: Counts) -> Receipt:
    """Give what the bus knows by itself, when its disk hangs."""
    return Receipt(
        folder=folder,
        status=None,
        step=counts.step,
        journaled=counts.journaled,
        counts=counts,
        skipped=Skipped(),
        sinks=[],
    )


def receipt(folder: Path, counts: Counts) -> Receipt:
    """Read the journal and the progress of each sink."""
    try:
        named = list(read_header(folder).sinks)
    except LookupError:
        named = []
    reader = JournalReader(folder)
    seqs: list[int] = []
    status: Status | None = None
    step = 0
    while batch := reader.read(10_000, live=False):
        for record in batch:
            status = record.status if isinstance(record, Closed) else None
            if isinstance(record, Scalars | Alert | Resumed):
                seqs.append(record.seq)
                step = record.step if isinstance(record, Resumed) else max(step, record.step)
    sinks = sorted({*named, *delivered_sinks(folder)})
    return Receipt(
        folder=folder,
        status=status,
        step=step,
        journaled=len(seqs),
        counts=counts,
        skipped=reader.skipped,
        sinks=[_sink(folder, name, seqs) for name in sinks],
    )


def _sink(folder: Path, name: str, seqs: list[int]) -> SinkReceipt:
    progress = read_progress(folder, name) or Progress()
    done = bisect_right(seqs, progress.cursor.accepted)
    delivered = max(0, done - progress.cursor.rejected)
    return SinkReceipt(name=name, delivered=delivered, left=len(seqs) - done, progress=progress)


def _sink_line(sink: SinkReceipt) -> str:
    line = f"{sink.delivered} delivered, {sink.left} left ({sink.progress.state})"
    if sink.progress.cursor.rejected:
        line += f", {sink.progress.cursor.rejected} rejected"
    if sink.progress.destination:
        line += f" to {sink.progress.destination}"
    if sink.progress.view:
        line += f"\n    see them with: {sink.progress.view}"
    if sink.progress.state in {"retrying", "refused"} and sink.progress.last_error:
        line += f"\n    last error: {sink.progress.last_error}"
    return line
