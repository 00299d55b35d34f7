"""The hooks that a sink implements.

A hook implementation may omit arguments that it does not need. All hooks of one instance are called from the same
thread. Hooks may block: only the delivery to this sink waits for them. The type of an exception determines how delivery
continues; see the hooks, and ``telemetry.errors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pluggy

from telemetry.records import Count, Record, RunRecord, ShortText, Status

PROJECT = "telemetry"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Opened(msgspec.Struct, frozen=True):
    """The result of ``sink_open``. Delivery checks the types, and treats other values as a failure of the sink.

    Attributes:
        destination: uniquely identifies where the sink writes, and does not depend on the working directory (use
            absolute paths). Progress is kept per destination; a new one starts at the beginning of the journal.
        last_seq: the highest sequence number present at the destination; 0 if it is empty, None if unknown. Delivery
            continues after it.
        view: a command or URL that shows the run; empty if there is none. The URL to open after the command may follow
            on a second line.
    """

    destination: ShortText
    last_seq: Count | None = None
    view: ShortText = ""


class SinkHooks:
    """The hook specifications."""

    @hookspec(firstresult=True)
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Connect, find out which records the backend already has, and prepare for further ones.

        Called once on each instance, before its other hooks; after a failure, on a new instance. Import the SDK here,
        not earlier.

        Args:
            run: the run record of the newest attempt: its name and parameters, and the unit and label of each metric.
            folder: the run folder; write the data of the run below it by default.

        Returns:
            The destination, and the position to continue after.

        Raises:
            SinkRejected: the sink will never accept this run; delivery to it ends with the message.
            SinkUnavailable: the backend cannot be reached now; delivery retries with a new instance, as after any other
                exception.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def sink_write(self, records: Sequence[Record]) -> int | None:
        """Write records in order.

        Ignore records of unknown kinds, and skip those that were written before.

        Args:
            records: up to 1,000 records, in order of their sequence numbers.

        Returns:
            The highest sequence number whose record would survive a crash now; None if unknown. After a crash, the
            records after the last number returned are delivered again.

        Raises:
            SinkRejected: the sink will never accept one of these records. They are offered again in smaller batches
                until the offending record is found and set aside, so skip those that were stored before the error.
            SinkUnavailable: the backend cannot accept records now. As after any other exception, a new instance is
                opened, and records after its ``last_seq`` are delivered again.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        """End the run at the backend.

        Called after the last record of the run, but not when another process takes over or after a failure. A later
        ``telemetry sync`` may call it again on a new instance; that must not change anything. A closed run may be
        resumed.

        Args:
            status: how training ended: finished, failed, preempted or killed.
            time: when it ended, in ms since 1970; for a killed run, the time of its last record.
            reason: why training ended, in a few words; may be empty.

        Raises:
            SinkRejected: the run can never be closed; delivery to this sink ends with the message.
            SinkUnavailable: the backend cannot be reached now; delivery continues as after ``sink_write``.
        """
        raise NotImplementedError
