"""The end of a run."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from telemetry.delivery.receipt import Receipt, receipt, unread_receipt
from telemetry.errors import TelemetryError
from telemetry.recording.journal_thread import JournalThread
from telemetry.records import Closed, Status, now_ms


class RunCloser:
    """End a run once: close the queue, wait for the journal, finish the deliveries, then read the receipt.

    May be called from any thread, and from a signal handler that interrupts a call in progress.
    """

    def __init__(self, folder: Path, journal_thread: JournalThread, timeout: float) -> None:
        """Prepare the end of the run in ``folder``; ``timeout`` is how long to wait for its journal, in seconds."""
        self._folder = folder
        self._thread = journal_thread
        self._timeout = timeout
        # Reentrant for the sake of the signal handler.
        self._lock = threading.RLock()
        self._receipt: Receipt | None = None

    def close(self, status: Status, reason: str, drain_timeout: float) -> Receipt | None:
        """End the run and return its receipt; a further call waits for the first one and returns the same receipt.

        Takes no longer than both timeouts together. The result is None in a signal handler that interrupts a call.
        """
        with self._lock:
            # A reason may quote a file name that is not valid Unicode.
            text = reason[:1000].encode(errors="replace").decode()
            if self._thread.queue.close(Closed(seq=0, time=now_ms(), status=status, reason=text)):
                # The thread may be stuck on a hung disk; it is then left behind.
                self._thread.join(self._timeout)
                # A short run may end before its deliveries were started.
                self._thread.start_deliveries()
                self._thread.supervisor.finish(drain_timeout)
                self._receipt = self._read_receipt()
            return self._receipt

    def _read_receipt(self) -> Receipt:
        counts = self._thread.queue.counts()
        # Reading from a hung disk would hang too, and an unreadable run folder must not fail a training at its end.
        if not self._thread.is_committing:
            with contextlib.suppress(OSError, TelemetryError):
                return receipt(self._folder, counts)
        return unread_receipt(self._folder, counts)
