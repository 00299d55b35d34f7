"""Close a run."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from telemetry.delivery.deadline import Deadline
from telemetry.delivery.receipt import Receipt, receipt, receipt_from_counts
from telemetry.errors import MAX_SEARCHED, TelemetryError
from telemetry.recording.journal_thread import JournalThread
from telemetry.recording.media_recorder import MediaRecorder
from telemetry.records import Closed, Status, now_ms
from telemetry.redaction import redact_text


class RunCloser:
    """End a run once: finish the media, the queue, the journal and the deliveries, then read the receipt.

    May be called from any thread, and from a signal handler that interrupts a call in progress.
    """

    def __init__(self, folder: Path, journal_thread: JournalThread, media: MediaRecorder, timeout: float) -> None:
        """Prepare to close the run in ``folder``; wait for its media, and up to ``timeout`` seconds for its journal."""
        self._folder = folder
        self._thread = journal_thread
        self._media = media
        self._timeout = timeout
        # Reentrant, because a signal handler may call close() while it is running.
        self._lock = threading.RLock()
        self._deadline = Deadline()
        self._receipt: Receipt | None = None

    def close(self, status: Status, reason: str, drain_timeout: float) -> Receipt | None:
        """End the run and return its receipt; subsequent calls wait for the first one and return the same receipt.

        Takes no longer than the two timeouts together, after up to a minute for pending media. Returns None in a signal
        handler that interrupts another call.
        """
        with self._lock:
            # A reason may quote a file name that is not valid Unicode.
            text = redact_text(str(reason or "")[:MAX_SEARCHED])[:1000].encode(errors="replace").decode()
            # Without media, it does not wait; with media, no longer than a limited deadline allows.
            self._media.finish(self._deadline)
            if self._thread.queue.close(Closed(seq=0, time=now_ms(), status=status, reason=text)):
                try:
                    # The thread may be stuck on a hung disk; if so, it is abandoned.
                    self._thread.join(self._timeout)
                    # A short run may end before its deliveries have been started.
                    self._thread.start_deliveries()
                    self._deadline.shorten(drain_timeout)
                    self._thread.supervisor.finish(self._deadline)
                finally:
                    # After an interrupted wait, another call returns the receipt.
                    self._receipt = self._read_receipt()
            return self._receipt

    def limit_drain(self, seconds: float) -> None:
        """Let ``close``, in progress or still to come, wait for the sinks only for ``seconds`` from now."""
        self._deadline.shorten(seconds)

    def _read_receipt(self) -> Receipt:
        counts = self._thread.queue.tally.counts()
        # Reading from a hung disk would hang, too, and an unreadable run folder must not make a finished run fail.
        if not self._thread.is_committing:
            with contextlib.suppress(OSError, TelemetryError):
                return receipt(self._folder, counts)
        return receipt_from_counts(self._folder, counts)
