"""The receipt of a run: numbers of records offered, journaled, and delivered to or pending for each sink."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from telemetry.delivery.sink_notices import reason
from telemetry.journal.codec import decode
from telemetry.journal.deliverable_records import DeliverableRecords
from telemetry.journal.reader import JournalReader, Skipped, read_header
from telemetry.journal.segment_lines import lines_backward
from telemetry.journal.segments import segment_path, segments
from telemetry.plugins.destinations import confirmations
from telemetry.records import Closed, Media, Status, kind_of, local_time
from telemetry.run_folder.heartbeat import Counts, read_heartbeat
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.paths import delivered_sinks, local_path, log_path, misnamed_sinks, shell_path
from telemetry.run_folder.sink_progress import SinkProgress, read_progress

_MAX_SHOWN, _MAX_MISNAMED = 100, 5
"""Number of characters of a file name, and number of such names, in a line."""


class SinkReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The delivery to one sink.

    Attributes:
        name: name of the sink.
        delivered: number of journaled records that the sink has accepted.
        pending: number of journaled records that it has neither accepted nor rejected.
        rejected: number of journaled records that it has rejected; the three add up to ``Receipt.journaled``.
        progress: the delivery progress as last saved.
        not_shown: numbers of the records of media that it does not show, by kind.
        holder: the process that is delivering; empty if none is known.
        confirmations: options of ``telemetry sync`` that confirm the destinations in the run folder, if the sink is
            behind; quoted for the shell.
    """

    name: str
    delivered: int
    pending: int
    rejected: int = 0
    progress: SinkProgress
    not_shown: dict[str, int] = {}
    holder: str = ""
    confirmations: list[str] = []

    @property
    def is_behind(self) -> bool:
        """Whether records are pending, or may be: after a change of destination, their number is unknown at first."""
        return self.pending > 0 or self.progress.is_elsewhere

    def lines(self) -> list[str]:
        """Return the status as one line, followed by indented lines with details."""
        progress = self.progress
        counts = f"{self.delivered} delivered, {self.pending} pending"
        if self.rejected:
            counts += f", {self.rejected} rejected"
        if progress.retries:
            counts += f", {progress.retries} retries"
        if progress.cursor.closed:
            counts += f"; closed as {progress.cursor.closed}"
        before = "not connected; before: " if progress.is_elsewhere else ""
        lines = [f"{self.name}: {progress.state}; {before}{counts}"]
        if progress.destination:
            lines.append(f"    to {progress.destination}")
        if progress.view:
            command, _, link = progress.view.partition("\n")
            lines += [f"    view with: {command}", *([f"    then open {link}"] if link else [])]
        if self.not_shown:
            lines.append(f"    not shown by {self.name}: {_listed(self.not_shown)}")
        if progress.last_error and (progress.state in {"retrying", "refused"} or progress.cursor.rejected):
            log = log_path(Path(), self.name)
            why = reason(progress.last_error, log, package=True)
            lines.append(f"    last error, {local_time(progress.last_error_time)}: {why}")
        if progress.state in {"opening", "delivering", "retrying"}:
            lines.append(f"    being delivered by {self.holder}" if self.holder else "    no process is delivering")
        return lines


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of records of a run that were offered, journaled and delivered.

    Attributes:
        folder: the run folder.
        status: how the newest attempt ended; None if the journal does not record it.
        step: the last iteration with a point.
        journaled: number of records in the journal, across all attempts, without superseded ones.
        counts: the counts of the newest attempt, as reported by its bus.
        skipped: numbers of unreadable and ignored records.
        sinks: all sinks of the run, past and present.
        reason: why the newest attempt ended; empty if the journal records only the status.
        misnamed: names of files in the folder of the sinks that are not names of sinks.
    """

    folder: Path
    status: Status | None
    step: int
    journaled: int
    counts: Counts
    skipped: Skipped
    sinks: list[SinkReceipt]
    reason: str = ""
    misnamed: list[str] = []

    def __str__(self) -> str:
        """Return the receipt as lines of text, with the command that delivers pending records."""
        counts = self.counts
        lines = [f"telemetry: {counts.offered} records offered, {counts.journaled} journaled in {self.folder}"]
        unwritten = counts.offered - counts.journaled
        if unwritten:
            lines[0] += f"; {unwritten} NOT WRITTEN"
        if self.journaled > counts.journaled:
            lines.append(f"  {self.journaled} records journaled, including those of earlier attempts")
        if counts.dropped:
            lines.append(f"  {counts.dropped_text()}")
        lines += [f"  {line}" for sink in self.sinks for line in sink.lines()]
        lines += [f"  {line}" for line in (*self.misnamed_files(), *self.sync_command())]
        return "\n".join(lines)

    def sync_command(self, *names: str) -> list[str]:
        """Return a line with the command that delivers pending records to the named sinks, or to all.

        The list is empty if no such sink is behind.
        """
        behind = [sink for sink in self.sinks if sink.is_behind and (not names or sink.name in names)]
        if not behind:
            return []
        when = " once no process is delivering" if any(sink.holder for sink in behind) else ""
        wanted = ",".join(sink.name for sink in behind)
        confirmed = "".join(f" -o {assignment}" for sink in behind for assignment in sink.confirmations)
        command = f"telemetry sync {shell_path(self.folder)} --telemetry-sinks {wanted}{confirmed}"
        trust = ", if you trust the destination" if confirmed else ""
        return [f"deliver the rest{when}{trust}: {command}"]

    def misnamed_files(self) -> list[str]:
        """Return a line about files that are not those of a sink; the list is empty if there are none."""
        if not self.misnamed:
            return []
        shown = ", ".join(repr(f"{name[:_MAX_SHOWN]}.json") for name in self.misnamed[:_MAX_MISNAMED])
        more = f" and {len(self.misnamed) - _MAX_MISNAMED} more" if len(self.misnamed) > _MAX_MISNAMED else ""
        return [f"ignored in {self.folder / 'sinks'}, because they are not named after a sink: {shown}{more}"]


class _Journal(NamedTuple):
    """What a receipt states about the journal; ``seqs`` are the numbers of the records that count, in order.

    ``media`` are the numbers of those of media, by kind.
    """

    status: Status | None
    reason: str
    step: int
    seqs: Sequence[int]
    skipped: Skipped
    media: Mapping[str, int]


def read_receipt(folder: str | os.PathLike[str]) -> Receipt:
    """Read the receipt of a run, whether or not the run is still in progress.

    Args:
        folder: the run folder.

    Raises:
        RunFolderError: the folder or a segment of the journal cannot be read.
        JournalError: the journal was written by a newer version.
    """
    run = local_path(folder)
    heartbeat = read_heartbeat(run)
    return _receipt(run, Counts() if heartbeat is None else heartbeat.counts, _read_journal(run))


def receipt_from_counts(folder: Path, counts: Counts) -> Receipt:
    """Return a receipt from the counts of the bus, without touching a disk that may hang."""
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
    """Return the receipt of a run that this process has written, with the ``counts`` of its bus.

    The journal of a run that was never resumed is not read, because ``counts`` describe it: it may be large.

    Raises:
        RunFolderError: the folder or a segment of the journal cannot be read.
        JournalError: the journal was written by a newer version.
    """
    return _receipt(folder, counts, _journal_of(folder, counts) or _read_journal(folder))


def _receipt(folder: Path, counts: Counts, journal: _Journal) -> Receipt:
    try:
        options = read_header(folder).sinks
    except LookupError:
        options = {}
    sinks = sink_receipts(folder, options, journal.seqs, journal.media)
    return Receipt(
        folder=folder,
        status=journal.status,
        step=journal.step,
        journaled=len(journal.seqs),
        counts=counts,
        skipped=journal.skipped,
        sinks=[_with_confirmations(folder, sink, options.get(sink.name, {})) for sink in sinks],
        reason=journal.reason,
        misnamed=misnamed_sinks(folder),
    )


def _journal_of(folder: Path, counts: Counts) -> _Journal | None:
    """Return the description of a journal with one segment from the number of its last record; None otherwise.

    If the number of records is that of the last one, then they are numbered from 1 without gaps.
    """
    if segments(folder) != [0]:
        return None
    last = decode(next((line for line in lines_backward(segment_path(folder, 0)) if line.strip()), b""))
    closed = last if isinstance(last, Closed) else None
    if last is None or last.seq - (closed is not None) != counts.journaled:
        return None
    status, reason = (closed.status, closed.reason) if closed else (None, "")
    return _Journal(status, reason, counts.step, range(1, counts.journaled + 1), Skipped(), counts.media)


def _read_journal(folder: Path) -> _Journal:
    reader = JournalReader(folder)
    records = DeliverableRecords()
    status: Status | None = None
    reason = ""
    media: Counter[str] = Counter()
    while batch := reader.read(10_000, live=False):
        for record in batch:
            status, reason = (record.status, record.reason) if isinstance(record, Closed) else (None, "")
            records.add(record)
            media.update([kind_of(record)] if isinstance(record, Media) else ())
    return _Journal(status, reason, records.step, records.seqs, reader.skipped, media)


def sink_receipts(
    folder: Path, started: Iterable[str], seqs: Sequence[int], media: Mapping[str, int] | None = None
) -> list[SinkReceipt]:
    """Read the progress of each sink of a run, past and present; ``confirmations`` are left empty.

    Args:
        folder: the run folder.
        started: the sinks that the run was started with.
        seqs: the sequence numbers of the records that sinks receive, ascending.
        media: the numbers of the records of media among them, by kind.
    """
    return [_sink(folder, name, seqs, media or {}) for name in sorted({*started, *delivered_sinks(folder)})]


def _sink(folder: Path, name: str, seqs: Sequence[int], media: Mapping[str, int]) -> SinkReceipt:
    progress = read_progress(folder, name) or SinkProgress()
    done = bisect_right(seqs, progress.cursor.accepted)
    # Records that a later attempt has superseded may have been rejected, too.
    rejected = min(done, progress.cursor.rejected)
    holder = Lease(folder / "sinks", name).holder()
    return SinkReceipt(
        name=name,
        delivered=done - rejected,
        pending=len(seqs) - done,
        rejected=rejected,
        progress=progress,
        not_shown={} if progress.media is None else {k: n for k, n in media.items() if k not in progress.media},
        holder="" if holder is None else str(holder),
    )


def _listed(numbers: Mapping[str, int]) -> str:
    """Return numbers by kind in words: ``3 images, 2 texts and 1 table``."""
    *rest, last = [f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in numbers.items()]
    return f"{', '.join(rest)} and {last}" if rest else last


def _with_confirmations(folder: Path, sink: SinkReceipt, options: Mapping[str, Any]) -> SinkReceipt:
    if not sink.is_behind:
        return sink
    return msgspec.structs.replace(sink, confirmations=confirmations(sink.name, options, folder))
