"""The logger of the package, whose messages may quote a server or a run folder."""

from __future__ import annotations

import logging

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
