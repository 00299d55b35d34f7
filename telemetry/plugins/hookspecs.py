"""The hooks that a sink implements. A hook may declare fewer arguments than stand here.

All hooks of one sink are called from one thread. They may block: nothing waits for them but the delivery to this
sink. What they raise decides what happens next: ``SinkUnavailable`` (or anything unforeseen) means "again later",
``SinkRejected`` means "never"; see telemetry.errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pluggy

from telemetry.records import Record, RunRecord, Status

PROJECT = "telemetry"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Opened(msgspec.Struct, frozen=True):
    """What ``sink_open`` found.

    Attributes:
        destination: where the sink writes, as a text that is another one for another place. Progress is kept for each
            destination, so a changed one starts from the beginning of the journal.
        last_seq: the highest sequence number that the destination holds; 0 if it is known to hold nothing; None if
            that cannot be told.
        view: the command or the address that shows the run there, for people; empty if there is none.
    """

    destination: str
    last_seq: int | None = None
    view: str = ""


class SinkHooks:
    """The specifications."""

    @hookspec(firstresult=True)
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Connect, find out what is already there, and get ready for records. Import the SDK here, not earlier.

        Called once before anything else, and again (on a new instance) after a failure.

        Args:
            run: the run's name, parameters, and the unit and label of each metric.
            folder: the run folder; what belongs to the run is written below it by default.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def sink_write(self, records: Sequence[Record]) -> int | None:
        """Write records, in order. Ignore the kinds that you do not know, and records that are there already.

        Raise SinkRejected only as long as nothing of this call has been taken: the records are then offered again in
        smaller calls, down to the one concerned. After any other error a new instance is opened, and what follows
        ``last_seq`` is offered again.

        Returns:
            The highest sequence number that would still be there after a crash now; None if that cannot be told,
            which after a crash brings everything again from the last number that was.
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        """End the backend's run. Called after the last record of the run; not when another process goes on.

        A later ``telemetry sync`` calls it again, on a new instance: that must change nothing.

        Args:
            status: how the training ended: finished, failed, preempted or killed.
            time: when, in ms since 1970; of a killed run, that of its last record.
            reason: in a few words, empty where the status says all.
        """
        raise NotImplementedError
