"""The logger of the package, whose messages may quote a server or a run folder."""

from __future__ import annotations

import logging

from telemetry.printable import printable, shorten
from telemetry.redaction import redact_text

log = logging.getLogger("telemetry")


def make_safe(record: logging.LogRecord) -> bool:
    """Remove credentials and control characters from a message."""
    record.msg, record.args = shorten(printable(redact_text(record.getMessage()))), None
    return True


log.addFilter(make_safe)
