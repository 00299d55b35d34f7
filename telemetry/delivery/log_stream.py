"""The log of a delivery, which users read in a terminal and pass on to others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from telemetry.redaction import safe_line
from telemetry.run_folder.atomic_write import private_opener

MAX_LINE_LENGTH = 4000
"""Maximum number of characters of a line."""


def stamped(line: str) -> str:
    """Return a line of a log, with the time."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n"


def append_to(path: Path) -> Callable[[str], None]:
    """Return a function that appends a line to a log; it never fails, like ``LogStream``."""

    def append(line: str) -> None:
        with contextlib.suppress(OSError, ValueError), open(path, "a", encoding="utf-8", opener=private_opener) as log:
            log.write(stamped(safe_line(line, MAX_LINE_LENGTH)))

    return append


class LogStream:
    """A text stream that removes credentials and control characters, line by line.

    Writes never fail: the log may be on a full disk, and delivery must continue.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pending = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write the complete lines, and keep the rest until it is complete or too long."""
        with self._lock:
            *lines, self._pending = (self._pending + text).split("\n")
            if len(self._pending) > MAX_LINE_LENGTH:
                lines.append(self._pending)
                self._pending = ""
            safe = [f"{safe_line(line, MAX_LINE_LENGTH)}\n" for line in lines]
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("".join(safe))
        return len(text)

    def flush(self) -> None:
        """Flush the complete lines."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return False, so that SDKs print no colors, of which only parts would remain."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
