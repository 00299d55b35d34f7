"""Sinks that behave in known ways, to be handed over as objects: ``open_run(…, sinks=[RecordingSink()])``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from telemetry.errors import SinkUnavailable
from telemetry.plugins.hookspecs import Opened, hookimpl
from telemetry.records import Record, RunRecord, Status


class RecordingSink:
    """Keep in memory what it is given.

    Args:
        name: by which it is told from other sinks.

    Attributes:
        records: all records taken, in order.
        opened: the run record of each ``sink_open``.
        closed: the status of each ``sink_close``.
    """

    def __init__(self, name: str = "recording") -> None:
        self.name = name
        self.records: list[Record] = []
        self.opened: list[RunRecord] = []
        self.closed: list[Status] = []
        self._last: dict[tuple[str, int], int] = {}
        self._run = ("", 0)

    @hookimpl
    def sink_open(self, run: RunRecord) -> Opened:
        """Say which record of this run was taken last."""
        self.opened.append(run)
        self._run = run.run_id, run.started
        return Opened(destination=f"memory of {self.name}", last_seq=self._last.get(self._run, 0))

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Take the records."""
        self.before_write()
        self.records += records
        self._last[self._run] = max([self._last.get(self._run, 0), *(record.seq for record in records)])
        return self._last[self._run]

    @hookimpl
    def sink_close(self, status: Status) -> None:
        """Note the status."""
        self.closed.append(status)

    def before_write(self) -> None:
        """Do nothing; the other fakes misbehave here."""


class FlakySink(RecordingSink):
    """Fail at some calls of ``sink_write``, taking nothing of them.

    Args:
        fail: the numbers of these calls, from 1.
        error: what is raised at them.

    Attributes:
        calls: how many calls there were.
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
        """Raise at the calls that were named."""
        self.calls += 1
        if self.calls in self._fail:
            raise self._error()


class SlowSink(RecordingSink):
    """Take ``seconds`` for each call of ``sink_write``, by the ``sleep`` given."""

    def __init__(self, seconds: float = 1.0, sleep: Callable[[float], None] = time.sleep, name: str = "slow") -> None:
        super().__init__(name)
        self._seconds = seconds
        self._sleep = sleep

    def before_write(self) -> None:
        """Sleep."""
        self._sleep(self._seconds)


class HungSink(RecordingSink):
    """Return from no ``sink_write`` before ``release`` is called.

    Attributes:
        hung: is set as soon as a call hangs.
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
        """Let all calls return, those to come too."""
        self._released.set()
