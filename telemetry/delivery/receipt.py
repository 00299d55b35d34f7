"""What became of a run's records: how many were offered, journaled, delivered, and are left, for each sink."""

from __future__ import annotations

import shlex
from bisect import bisect_right
from datetime import datetime
from pathlib import Path

import msgspec

from telemetry.journal.reader import JournalReader, Skipped, read_header
from telemetry.records import Alert, Closed, Resumed, Scalars, Status
from telemetry.run_folder.heartbeat import Counts, read_heartbeat
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.sink_progress import SinkProgress, delivered_sinks, read_progress


class SinkReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """One sink's part, in records."""

    name: str
    delivered: int
    left: int
    progress: SinkProgress
    holder: str = ""
    """Who delivers to it now; empty if nobody is known to."""

    @property
    def is_behind(self) -> bool:
        """Say whether something is left, or may be, as nobody knows yet where it is delivered to now."""
        return self.left > 0 or self.progress.is_elsewhere

    def lines(self) -> list[str]:
        """Give how it stands: a line, and indented ones with what more there is to say."""
        progress = self.progress
        told = f"{self.delivered} delivered, {self.left} left"
        if progress.cursor.rejected:
            told += f", {progress.cursor.rejected} rejected"
        if progress.retries:
            told += f", {progress.retries} retries"
        if progress.cursor.closed:
            told += f"; closed as {progress.cursor.closed}"
        before = "not connected; before: " if progress.is_elsewhere else ""
        lines = [f"{self.name}: {progress.state}; {before}{told}"]
        if progress.destination:
            lines.append(f"    to {progress.destination}")
        if progress.view:
            lines.append(f"    see them with: {progress.view}")
        if progress.last_error and (progress.state in {"retrying", "refused"} or progress.cursor.rejected):
            lines.append(f"    last error, {_when(progress.last_error_time)}: {progress.last_error}")
        if progress.state in {"opening", "delivering", "retrying"}:
            lines.append(f"    {self.holder} delivers now" if self.holder else "    nobody delivers now")
        return lines


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
        reason: why the newest attempt ended, where its journal says more than the status.
    """

    folder: Path
    status: Status | None
    step: int
    journaled: int
    counts: Counts
    skipped: Skipped
    sinks: list[SinkReceipt]
    reason: str = ""

    def __str__(self) -> str:
        """Give the receipt as lines of text, with the command that delivers what is left."""
        counts = self.counts
        lines = [f"telemetry: {counts.offered} records offered, {counts.journaled} journaled in {self.folder}"]
        unwritten = counts.offered - counts.journaled
        if unwritten:
            lines[0] += f"; {unwritten} NOT WRITTEN"
        lines += [f"  {line}" for sink in self.sinks for line in sink.lines()]
        lines += [f"  {line}" for line in self.cure()]
        return "\n".join(lines)

    def cure(self, *names: str) -> list[str]:
        """Give the command that delivers what is left, to the sinks of these names or to all; none if nothing is."""
        behind = [sink for sink in self.sinks if sink.is_behind and (not names or sink.name in names)]
        if not behind:
            return []
        when = ", when nobody delivers any more" if any(sink.holder for sink in behind) else ""
        run, wanted = shlex.quote(str(self.folder)), ",".join(sink.name for sink in behind)
        return [f"deliver the rest{when}: telemetry sync {run} --telemetry-sinks {wanted}"]


def read_receipt(folder: Path) -> Receipt:
    """Read what became of a run's records, from outside of its training.

    Raises:
        RunFolderError: the folder, or a file of the journal in it, cannot be read.
    """
    alive = read_heartbeat(folder)
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
    step, reason = 0, ""
    while batch := reader.read(10_000, live=False):
        for record in batch:
            status, reason = (record.status, record.reason) if isinstance(record, Closed) else (None, "")
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
        reason=reason,
    )


def _sink(folder: Path, name: str, seqs: list[int]) -> SinkReceipt:
    progress = read_progress(folder, name) or SinkProgress()
    done = bisect_right(seqs, progress.cursor.accepted)
    delivered = max(0, done - progress.cursor.rejected)
    holder = Lease(folder / "sinks", name).holder()
    return SinkReceipt(
        name=name,
        delivered=delivered,
        left=len(seqs) - done,
        progress=progress,
        holder="" if holder is None else str(holder),
    )


def _when(ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(ms / 1000).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # no clock of ours gives such a time
        return f"{ms} ms"
