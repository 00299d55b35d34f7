"""The logger of the package, whose messages may quote a server or a run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from telemetry.redaction import redact_text, safe_line

log = logging.getLogger("telemetry")

_FORMATTER = logging.Formatter()


def make_safe(record: logging.LogRecord) -> bool:
    """Remove credentials and control characters from a message and its traceback; for use as a filter."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - a mistake of the caller, which must not fail because of it
        message = str(record.msg)
    record.msg, record.args = safe_line(message), None
    if record.exc_info and not record.exc_text:
        record.exc_text = _FORMATTER.formatException(record.exc_info)
    if record.exc_text:
        record.exc_text = "\n".join(map(safe_line, redact_text(record.exc_text).split("\n")))
    return True


log.addFilter(make_safe)


class MessageFormatter(logging.Formatter):
    """Messages as the commands print them: ``warning: …``, ``error: …``, or without a prefix if nothing is wrong."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message and its traceback, if any."""
        prefix = "error: " if record.levelno >= logging.ERROR else "warning: "
        return f"{prefix if record.levelno >= logging.WARNING else ''}{super().format(record)}"


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(MessageFormatter())
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for line in self.format(record).split("\n"):
                self._say(line)
        except Exception:  # noqa: BLE001 - as in all handlers
            self.handleError(record)


@contextlib.contextmanager
def passing_messages(say: Callable[[str], None], *names: str) -> Iterator[None]:
    """Pass the messages of loggers, down to information, to a function that prints a line."""
    handler, loggers = _Lines(say), [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
