"""The part of a run that W&B has stored, and the keys in its rows and summary that identify it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SEQ_KEY, ATTEMPT_KEY = "telemetry/seq", "telemetry/attempt"
"""Keys of each row: the sequence number of its record, and the attempt that recorded it."""
ITERATION_KEY = "trainer/iteration"
"""The key of the iteration, the x-axis of all charts."""
RESERVED_KEYS = (ITERATION_KEY, SEQ_KEY, ATTEMPT_KEY)
"""Keys that the sink adds to each row."""
STATUS_KEY, REASON_KEY, LAST_ALERT_KEY = "telemetry/status", "telemetry/reason", "telemetry/alert"
"""Keys of the summary: the final status, its reason, and the sequence number of the last alert before the end."""


@dataclass
class StoredRun:
    """The part of a run that W&B has stored, in offline files or on a server.

    Attributes:
        last_seq: the highest sequence number of a row; 0 if there are no rows, None if unknown.
        attempt: the attempt of the last row.
        next_step: W&B's number (``_step``) for the next row.
        status: the final status of the run; empty or not a final status while the run is open.
        last_alert: the highest sequence number among the alerts before the run last ended.
    """

    last_seq: int | None = None
    attempt: int = 1
    next_step: int = 0
    status: str = ""
    last_alert: int = 0

    def add_row(self, row: dict[str, Any]) -> None:
        """Update the state with the next row, given as a dict."""
        if SEQ_KEY in row:
            self.last_seq = max(self.last_seq or 0, int(row[SEQ_KEY]))
        self.attempt = int(row.get(ATTEMPT_KEY, self.attempt))
        self.next_step = max(self.next_step, int(row.get("_step", -1)) + 1)
