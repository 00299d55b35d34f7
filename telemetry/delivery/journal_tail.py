"""The part of the journal that a sink has not received yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from telemetry.journal.reader import JournalReader, read_header
from telemetry.journal.segments import segments
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, Closed
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

READ_LIMIT = 1000
"""Maximum number of records read at once."""


class JournalTail:
    """Read the records after a sink's position, and determine whether and how the run has ended.

    Args:
        folder: the run folder.
        liveness: probe that checks whether the trainer is alive.
        clock: monotonic clock in seconds.

    Attributes:
        pending: records that have been read but not delivered yet, in order.
        closed: the last record read, if it closes the newest attempt; otherwise None.

    Raises:
        RunNotFound: the folder contains no journal.
    """

    def __init__(self, folder: Path, liveness: TrainerLivenessProbe, clock: Callable[[], float]) -> None:
        self.pending: list[AnyRecord] = []
        self.closed: Closed | None = None
        self._folder = folder
        self._liveness = liveness
        self._clock = clock
        self._reader = JournalReader(folder, clock=clock)
        self._attempt = read_header(folder).attempt
        self._newest_segment = 0
        self._last_record_time: int | None = None

    def start_after(self, seq: int) -> None:
        """Drop the pending records and continue reading after a sequence number."""
        self._reader = JournalReader(self._folder, after=seq, clock=self._clock)
        self.pending, self.closed = [], None

    def fill(self) -> None:
        """Read more records, unless some are pending.

        Raises:
            RunFolderError: a segment cannot be read.
        """
        if not self.pending:
            self._read()

    def end(self) -> Closed | None:
        """Return how the run ended; None if it is not known to have ended, or if more records are pending.

        A run whose trainer died without closing it counts as killed at the time of its last record.
        """
        if self.closed is not None:
            return self.closed
        if self._liveness.is_alive() is not False:
            return None
        # Records may have been written between the last read and the trainer's end.
        self._read()
        return None if self.pending else self.closed or self._killed()

    def has_newer_attempt(self) -> bool:
        """Return whether a trainer has resumed the run since this object was created."""
        newest = max(segments(self._folder), default=0)
        if newest == self._newest_segment:
            return False
        header = read_header(self._folder)
        # The newest segment may have no header yet; if so, it is checked again.
        self._newest_segment = header.seq // SEQ_PER_SEGMENT
        return header.attempt > self._attempt

    def _read(self) -> None:
        for record in self._reader.read(READ_LIMIT, live=self._liveness.is_alive() is not False):
            self._last_record_time = record.time
            if isinstance(record, Closed):
                self.closed = record
            else:
                # An attempt followed by another one was not the end of the run.
                self.closed = None
                self.pending.append(record)

    def _killed(self) -> Closed:
        reason = "the trainer ended without closing the run"
        return Closed(seq=0, time=self._end_time(), status="killed", reason=reason)

    def _end_time(self) -> int:
        """Return the time of the last record, in ms since 1970; read the journal if nothing was left to deliver."""
        if self._last_record_time is None:
            reader = JournalReader(self._folder, superseded=True)
            self._last_record_time = read_header(self._folder).time
            while batch := reader.read(READ_LIMIT, live=False):
                self._last_record_time = batch[-1].time
        return self._last_record_time
