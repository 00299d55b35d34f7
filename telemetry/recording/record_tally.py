"""Count the records of an attempt from the call of ``publish`` to the disk."""

from __future__ import annotations

import threading
from collections import Counter

from telemetry.recording.drop_reasons import DropReason
from telemetry.run_folder.heartbeat import Counts


class RecordTally:
    """The numbers of records offered, journaled and lost. Any thread may call the methods, also in a signal handler.

    Attributes:
        unwritten: number of records that are neither journaled nor lost: those in the queue, and those that the journal
            thread is working on.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.unwritten = 0
        self._offered = self._journaled = self._lost = self._step = 0
        self._dropped: Counter[str] = Counter()
        self._media: Counter[str] = Counter()
        self._lock = threading.RLock()

    def offer(self, records: int) -> None:
        """Count published or generated records."""
        with self._lock:
            self._offered += records
            self.unwritten += records

    def lose(self, records: int, reason: DropReason | None = None) -> None:
        """Count offered records as lost; the reason is None if it is counted for each value."""
        with self._lock:
            self._lost += records
            self.unwritten -= records
            if reason is not None:
                self._dropped[reason] += records

    def withdraw(self, reason: DropReason | None = "already recorded") -> None:
        """Count an offered record as neither offered nor lost; the reason is None if it contained nothing."""
        with self._lock:
            self._offered -= 1
            self.unwritten -= 1
            if reason is not None:
                self._dropped[reason] += 1

    def drop(self, reason: DropReason, number: int = 1) -> None:
        """Count values left out of records, or points that are not offered."""
        with self._lock:
            self._dropped[reason] += number

    def write(self, records: int) -> None:
        """Count offered records as journaled."""
        with self._lock:
            self._journaled += records
            self.unwritten -= records

    def note_step(self, step: int) -> None:
        """Register ``step`` as recorded; ``counts`` reports the highest one."""
        self._step = max(self._step, step)

    def note_media(self, kind: str) -> None:
        """Count a record of media by kind."""
        with self._lock:
            self._media[kind] += 1

    def counts(self) -> Counts:
        """Return the current numbers."""
        with self._lock:
            return Counts(
                offered=self._offered,
                journaled=self._journaled,
                lost=self._lost,
                step=self._step,
                dropped=dict(self._dropped),
                media=dict(self._media),
            )
