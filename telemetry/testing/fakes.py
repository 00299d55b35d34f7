"""Sinks with known behavior, to be passed as objects: ``open_run(…, sinks=[RecordingSink()])``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from telemetry.errors import SinkUnavailable
from telemetry.plugins.hookspecs import Opened, hookimpl
from telemetry.records import MEDIA_KINDS, Record, RunRecord, Status


class RecordingSink:
    """A sink that keeps the records in memory; it declares that it shows media of all kinds.

    Args:
        name: name of the sink, unique within a run.

    Attributes:
        records: all records accepted, in order.
        opened: the run record of each ``sink_open``.
        closed: the status of each ``sink_close``.
    """

    media: ClassVar = MEDIA_KINDS

    def __init__(self, name: str = "recording") -> None:
        self.name = name
        self.records: list[Record] = []
        self.opened: list[RunRecord] = []
        self.closed: list[Status] = []
        self._last: dict[tuple[str, int], int] = {}
        self._run = ("", 0)

    @hookimpl
    def sink_open(self, run: RunRecord) -> Opened:
        """Report the last accepted record of this run."""
        self.opened.append(run)
        self._run = run.run_id, run.started
        return Opened(destination=f"memory of {self.name}", last_seq=self._last.get(self._run, 0))

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Accept the records."""
        self.before_write()
        self.records += records
        self._last[self._run] = max([self._last.get(self._run, 0), *(record.seq for record in records)])
        return self._last[self._run]

    @hookimpl
    def sink_close(self, status: Status) -> None:
        """Record the status."""
        self.closed.append(status)

    def before_write(self) -> None:
        """Do nothing; subclasses override this method to misbehave."""


class FlakySink(RecordingSink):
    """A sink whose ``sink_write`` fails in some calls; those accept no records.

    Args:
        fail: the numbers of these calls, counted from 1.
        error: function that creates the exception to raise.
        name: name of the sink, unique within a run.

    Attributes:
        calls: number of calls so far.
    """

    def __init__(
        self,
        fail: Collection[int] = (1,),
        error: Callable[[], BaseException] = lambda: SinkUnavailable("flaky"),
        name: str = "flaky",
    ) -> None:
        super().__init__(name)
        self._fail = frozenset(fail)
        self._error = error
        self.calls = 0

    def before_write(self) -> None:
        """Raise in the chosen calls."""
        self.calls += 1
        if self.calls in self._fail:
            raise self._error()


class SlowSink(RecordingSink):
    """A sink that sleeps in each call of ``sink_write``.

    Args:
        seconds: duration of each call.
        sleep: function called with ``seconds``.
        name: name of the sink, unique within a run.
    """

    def __init__(self, seconds: float = 1.0, sleep: Callable[[float], None] = time.sleep, name: str = "slow") -> None:
        super().__init__(name)
        self._seconds = seconds
        self._sleep = sleep

    def before_write(self) -> None:
        """Sleep."""
        self._sleep(self._seconds)


class HungSink(RecordingSink):
    """A sink that does not return from ``sink_write`` until ``release`` is called.

    Attributes:
        hung: event that is set as soon as a call starts waiting.
    """

    def __init__(self, name: str = "hung") -> None:
        super().__init__(name)
        self.hung = threading.Event()
        self._released = threading.Event()

    def before_write(self) -> None:
        """Wait for ``release``."""
        self.hung.set()
        self._released.wait()

    def release(self) -> None:
        """Let all calls return, including later ones."""
        self._released.set()
