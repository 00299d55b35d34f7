"""The protocol between a delivery process and the process that starts it: the job, the exit codes and signals."""

from __future__ import annotations

import signal
from typing import Any

import msgspec

from telemetry.settings import Settings

EXIT_FAILED = 70
"""Exit code of a delivery process that left records undelivered: start it again."""
EXIT_HUNG = 75
"""Exit code of a delivery process whose hook did not return: start it again."""
EXIT_REJECTED = 78
"""Exit code of a delivery process whose sink rejected the run: starting it again would not help."""


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""Signals that ask a job to end. A delivery process is started with these blocked, until it can handle them."""


class Job(msgspec.Struct, kw_only=True):
    """The first line on the standard input of a delivery process, as JSON.

    Any later byte wakes the process up to read new records from the journal.
    """

    folder: str
    sink: str
    options: dict[str, Any]
    settings: Settings
