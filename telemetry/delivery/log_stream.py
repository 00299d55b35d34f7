"""The output of a delivery process, which users read in a terminal and pass on to others."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, TextIO

from telemetry.redaction import safe_line

MAX_LINE_LENGTH = 4000
"""Maximum number of characters of a line."""


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
