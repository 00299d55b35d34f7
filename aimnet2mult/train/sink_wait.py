"""Show what the end of a run waits for: the sinks that do not have all records yet."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self, TextIO

from telemetry import TelemetryError, read_receipt
from telemetry.delivery.deadline import Deadline
from telemetry.delivery.receipt import SinkReceipt
from telemetry.delivery.sink_notices import reason
from telemetry.printable import shorten
from telemetry.redaction import safe_line
from telemetry.run_folder.paths import log_path

__all__ = ["SinkWait"]

DELAY, INTERVAL = 1.0, 1.0
"""Seconds before the line appears, because most waits are short, and between updates on a terminal."""
MAX_SHARE = 0.1
"""Maximum share of the time in which the run folder is read: the journal may be long."""


class SinkWait:
    """A context during which a line shows what the end of the run waits for; on a terminal, with a countdown.

    A thread of its own reads the run folder, so that a slow disk does not delay the end.

    Args:
        folder: the run folder.
        names: names of the sinks.
        deadline: when the wait ends.
        on_interrupt: what Ctrl-C does, in a few words.
        stream: output stream; by default stderr.
        delay: seconds before the line appears.
    """

    def __init__(
        self,
        folder: Path,
        names: Collection[str],
        deadline: Deadline,
        *,
        on_interrupt: str,
        stream: TextIO | None = None,
        delay: float = DELAY,
    ) -> None:
        self._folder = folder
        self._names = names
        self._deadline = deadline
        self._hint = f"Ctrl-C: {on_interrupt}"
        self._stream = stream or sys.stderr or io.StringIO()
        self._delay = delay
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended.set()
            self._write("")

    def say(self, line: str) -> None:
        """Print a line in place of the countdown, which follows again."""
        with self._lock:
            self._write(f"{safe_line(line)}\n")

    def _run(self) -> None:
        waiting, read_at = "", 0.0
        pause = self._delay
        while not self._ended.wait(pause):
            pause = INTERVAL
            began = time.monotonic()
            if began >= read_at:
                with contextlib.suppress(OSError, TelemetryError):
                    waiting = self._find_waiting()
                read_at = time.monotonic() + (time.monotonic() - began) / MAX_SHARE
            with self._lock:
                if waiting and not self._ended.is_set():
                    self._show(waiting)
                    if not self._stream.isatty():
                        return

    def _find_waiting(self) -> str:
        sinks = [sink for sink in read_receipt(self._folder).sinks if sink.name in self._names and not _has_ended(sink)]
        return ", ".join(self._describe(sink) for sink in sinks)

    def _describe(self, sink: SinkReceipt) -> str:
        number = sink.pending
        what = f"{number} record{'' if number == 1 else 's'}" if number else "closing"
        why = ""
        if sink.progress.state == "retrying":
            log = log_path(self._folder, sink.name)
            why = f"; {reason(sink.progress.last_error, log, address=False)}"
        return f"{sink.name} ({what}{why})"

    def _show(self, waiting: str) -> None:
        line = safe_line(f"waiting up to {self._deadline.remaining():.0f} s for {waiting}")
        if not self._stream.isatty():
            self._write(f"{line}; {self._hint}\n")
            return
        if self._hint:
            # In a line of its own, a narrow terminal shows it as well as the reason of the wait.
            self._write(f"{self._hint}\n")
            self._hint = ""
        self._write(shorten(line, self._columns() - 1))

    def _write(self, text: str) -> None:
        # A closed terminal or a full disk must not disturb the end.
        with contextlib.suppress(OSError, ValueError):
            start = "\r\x1b[K" if self._stream.isatty() else ""
            if start or text:
                self._stream.write(start + text)
                self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def _has_ended(sink: SinkReceipt) -> bool:
    return sink.progress.state == "refused" or (sink.progress.state == "closed" and not sink.is_behind)
