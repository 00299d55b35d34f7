"""The position of a sink in the journal, saved in ``sinks/<name>.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from telemetry.errors import SinkRejected, error_text, format_error
from telemetry.journal.codec import encode
from telemetry.plugins.hookspecs import Opened
from telemetry.plugins.registry import Sink
from telemetry.records import AnyRecord, Status, now_ms
from telemetry.run_folder.atomic_write import private_opener, remove_temporary_files
from telemetry.run_folder.paths import progress_path, rejected_path
from telemetry.run_folder.sink_progress import (
    Cursor,
    SinkProgress,
    SinkState,
    read_progress,
    write_progress,
)

MAX_ERROR_LENGTH = 1000
"""Maximum length of a saved error message, in characters."""
MAX_DESTINATIONS = 50
"""Number of destinations, most recent ones, whose progress is kept."""


class DeliveryCursor:
    """The numbers of the records that a sink has accepted, holds durably or has rejected, per destination.

    Every change is saved at once, so that ``telemetry status`` and the next delivery can read it. A file that cannot be
    written does not stop delivery: the next ``sink_open`` asks the backend for its position.

    Args:
        folder: the run folder.
        sink: the sink delivered to.
        log: called with one human-readable line for the log of the sink.
        warn: called with a line if the file cannot be written; by default ``log``.
    """

    def __init__(
        self, folder: Path, sink: Sink, log: Callable[[str], None], warn: Callable[[str], None] | None = None
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._log = log
        self._warn = warn or log
        self._progress = SinkProgress()
        self._saved = True

    @property
    def accepted(self) -> int:
        """Sequence number of the last record that the sink accepted at the current destination."""
        return self._progress.cursor.accepted

    def load(self) -> None:
        """Read the saved progress. The caller must hold the lease; otherwise its holder may move the cursor."""
        self._progress = read_progress(self._folder, self._sink.name) or SinkProgress()
        with contextlib.suppress(OSError):  # temporary files left by a killed process are harmless
            remove_temporary_files(progress_path(self._folder, self._sink.name))

    def start_opening(self, state: SinkState) -> None:
        """Record that the destination is unknown until ``sink_open`` returns."""
        self._progress.reopening = True
        self._save(state)

    def move_to(self, opened: Opened) -> int:
        """Switch to the destination that ``sink_open`` reported; return the sequence number to continue after."""
        progress = self._progress
        progress.destination, progress.view = self._sink.redact(opened.destination), self._sink.redact(opened.view)
        progress.media = self._sink.media
        progress.reopening = False
        if opened.destination != progress.destination and opened.destination in progress.cursors:
            # Written by an earlier version.
            progress.cursors[progress.destination] = progress.cursors.pop(opened.destination)
        progress.cursors[progress.destination] = progress.cursors.pop(progress.destination, Cursor())
        # A broken sink may report a new destination each time, but the file must stay readable.
        for oldest in list(progress.cursors)[:-MAX_DESTINATIONS]:
            del progress.cursors[oldest]
        if opened.last_seq is not None:
            # Trust the backend over the saved cursor: a power cut may have rolled back either.
            progress.cursor.durable = opened.last_seq
        progress.cursor.accepted = progress.cursor.durable
        self._save("delivering")
        return progress.cursor.durable

    def advance(self, seq: int, durable: int | None) -> None:
        """Note that records up to ``seq`` were accepted or rejected and those up to ``durable`` survive a crash."""
        cursor = self._progress.cursor
        cursor.accepted = max(cursor.accepted, seq)
        cursor.durable = max(cursor.durable, min(durable or 0, cursor.accepted))
        cursor.closed = None
        self._save("delivering")

    def hangs_at(self, seq: int) -> int:
        """Return how often, in succession, a call has taken too long because of the content of this record."""
        return self._progress.hangs if self._progress.hung_at == seq else 0

    def note_hang(self, seq: int) -> None:
        """Note that a call takes too long, in which the record ``seq`` has the largest content."""
        self._progress.hangs = 1 + self.hangs_at(seq)
        self._progress.hung_at = seq
        self._save("retrying")

    def set_aside(self, record: AnyRecord, error: SinkRejected) -> None:
        """Append a rejected record to ``sinks/<name>.rejected.jsonl``.

        Raises:
            OSError: the file cannot be written.
        """
        cursor = self._progress.cursor
        if record.seq <= cursor.last_rejected:
            return  # already set aside before a restart
        path = rejected_path(self._folder, self._sink.name)
        with open(path, "ab", opener=private_opener) as file:
            file.write(encode(record))
        cursor.rejected += 1
        cursor.last_rejected = record.seq
        self._note(error)
        reason = error_text(error) or "no reason given"
        self._log(f"{self._sink.title} rejected record {record.seq} ({reason}); it was set aside in {path}")

    def close(self, status: Status) -> None:
        """Record that the backend's run was closed; all accepted records are then durable."""
        cursor = self._progress.cursor
        cursor.closed = status
        cursor.durable = max(cursor.durable, cursor.accepted)
        self._save("closed")

    def fail(self, error: BaseException) -> None:
        """Record a failure and go back to the last durable record.

        Records accepted but not confirmed as durable may be lost; the next ``sink_open`` determines which.
        """
        self._progress.cursor.accepted = self._progress.cursor.durable
        self._progress.retries += 1
        self._note(error)
        self._save("retrying")

    def reject(self, error: SinkRejected) -> None:
        """Record that the sink rejected the whole run."""
        self._note(error)
        self._save("refused")

    def _note(self, error: BaseException) -> None:
        # Name the package: the fault may be in a third-party sink.
        self._progress.last_error = self._sink.redact(f"{self._sink.title}: {format_error(error)}")[:MAX_ERROR_LENGTH]
        self._progress.last_error_time = now_ms()

    def _save(self, state: SinkState) -> None:
        self._progress.state = state
        self._progress.updated = now_ms()
        try:
            write_progress(self._folder, self._sink.name, self._progress)
        except OSError as error:
            # If the backend does not know its position either, a restart delivers records twice; hence the message.
            if self._saved:
                self._warn(f"cannot save the progress of {self._sink.name}: {error}")
            self._saved = False
        else:
            self._saved = True
