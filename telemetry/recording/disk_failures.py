"""Commit the journal, and retry while the disk is full or failing."""

from __future__ import annotations

import time
from pathlib import Path

from telemetry.backoff import Backoff
from telemetry.journal.writer import JournalWriter
from telemetry.logger import log
from telemetry.recording.limits import DEFAULT_LIMITS, RecordingLimits
from telemetry.recording.warn_once import WarnOnce


class FailureTolerantCommitter:
    """Make appended records durable. If that fails, they stay in memory, and later calls retry with growing delays.

    For the journal thread alone; other threads may read ``is_running``.

    Attributes:
        is_running: whether a write to the disk is in progress.
        is_closing: whether ``start_closing`` was called.
        retry_at: monotonic time of the next attempt; in the past if none is pending.
    """

    def __init__(self, folder: Path, journal: JournalWriter, limits: RecordingLimits = DEFAULT_LIMITS) -> None:
        """Prepare without touching the disk.

        Args:
            folder: the run folder, named in warnings.
            journal: the writer of the journal.
            limits: the delays between attempts, and the capacity of the queue.
        """
        self.is_running = False
        self.is_closing = False
        self.retry_at = 0.0
        self._folder = folder
        self._journal = journal
        self._limits = limits
        self._backoff = Backoff(limits.disk_backoff_initial, limits.disk_backoff_max)
        self._warn_once = WarnOnce()

    def commit(self) -> bool:
        """Commit, unless it is too early for a retry; return whether all appended records are now durable."""
        if not self._journal.pending:
            return True
        return time.monotonic() >= self.retry_at and self._try_commit()

    def start_closing(self) -> None:
        """Retry at once, and with short delays from now on, because the run is being closed."""
        # A disk that was full may have room again, and little time is left to find out.
        if not self.is_closing:
            self.is_closing = True
            self.retry_at = 0.0
            self._backoff = Backoff(self._limits.close_retry_delay, self._limits.disk_backoff_max)

    def _try_commit(self) -> bool:
        self.is_running = True
        try:
            self._journal.commit()
        except OSError as error:
            self.retry_at = time.monotonic() + self._backoff.next_delay()
            room = f"up to {self._limits.queue_capacity} records wait in memory"
            message = f"cannot write the journal in {self._folder} ({error}); training continues, {room}"
            self._warn_once("disk", f"{message}, and writing is retried")
            return False
        finally:
            self.is_running = False
        self.retry_at = 0.0
        self._backoff.reset()
        if self._warn_once.clear("disk"):
            log.warning("writing to the journal in %s works again; no queued records were lost", self._folder)
        return True
