"""Start, restart and finish the deliveries of a run during training: one process or thread per sink."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from telemetry.delivery.deadline import Deadline
from telemetry.delivery.process_worker import ProcessWorker
from telemetry.delivery.sink_notices import OUTAGE_DELAY, SinkNotices
from telemetry.delivery.thread_worker import ThreadWorker
from telemetry.logger import log
from telemetry.plugins.registry import Sink
from telemetry.settings import Settings

FINISH_CHECK_INTERVAL = 0.02
"""Poll interval in seconds while waiting for the delivery processes to end."""
THREAD_CHECK_INTERVAL = 0.2
"""Interval in seconds at which a wait for a delivery thread looks at the deadline."""


class DeliverySupervisor(Protocol):
    """The interface between the bus and the deliveries. No method raises because of a sink.

    ``wake`` may be called from any thread, the other methods from one thread at a time.
    """

    @property
    def names(self) -> Sequence[str]:
        """The names of the sinks."""

    def start(self) -> None:
        """Start delivering."""

    def supervise(self) -> None:
        """Restart deliveries that have died, and log changes in the others. Called every few seconds."""

    def wake(self) -> None:
        """Make all deliveries read the journal now."""

    def finish(self, deadline: Deadline) -> None:
        """Wait until ``deadline`` for everything to be delivered, then detach the deliveries."""


class ProcessSupervisor:
    """One delivery process per sink; processes that are not done outlive this one.

    Args:
        folder: the run folder.
        sinks: the sinks to deliver to.
        settings: the settings for the processes.
        outage_delay: as for ``SinkNotices``.
        make_worker: function called once per sink, with the arguments of ``ProcessWorker``.
    """

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[Sink],
        settings: Settings,
        *,
        outage_delay: float = OUTAGE_DELAY,
        make_worker: Callable[[Path, Sink, Settings], ProcessWorker] = ProcessWorker,
    ) -> None:
        self.names = [sink.name for sink in sinks]
        self._workers = [make_worker(folder, sink, settings) for sink in sinks]
        self._notices = SinkNotices(folder, self.names, outage_delay=outage_delay)

    def start(self) -> None:
        """Start the processes."""
        for worker in self._workers:
            worker.start()

    def supervise(self) -> None:
        """Restart processes that have died, and log which sinks cannot be reached."""
        self._restart()
        _log(self._notices)

    def wake(self) -> None:
        """Make the processes read the journal now."""
        for worker in self._workers:
            worker.wake()

    def finish(self, deadline: Deadline) -> None:
        """Wait until ``deadline`` for the processes to end, restarting those that die, then detach the rest."""
        self.wake()
        try:
            while not all(worker.has_ended for worker in self._workers) and deadline.remaining():
                self._restart()
                time.sleep(FINISH_CHECK_INTERVAL)
        finally:
            for worker in self._workers:
                worker.detach()
        _log(self._notices, last=True)

    def _restart(self) -> None:
        for worker in self._workers:
            worker.supervise()


class ThreadSupervisor:
    """One delivery thread per sink, for notebooks and for sinks passed as objects.

    Args:
        folder: the run folder.
        sinks: the sinks to deliver to.
        settings: the settings for the deliveries.
        outage_delay: as for ``SinkNotices``.
        make_worker: function called once per sink, with the arguments of ``ThreadWorker``.
    """

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[Sink],
        settings: Settings,
        *,
        outage_delay: float = OUTAGE_DELAY,
        make_worker: Callable[[Path, Sink, Settings], ThreadWorker] = ThreadWorker,
    ) -> None:
        self.names = [sink.name for sink in sinks]
        self._workers = [make_worker(folder, sink, settings) for sink in sinks]
        self._notices = SinkNotices(folder, self.names, outage_delay=outage_delay)

    def start(self) -> None:
        """Start the threads."""
        for worker in self._workers:
            worker.start()

    def supervise(self) -> None:
        """Log which sinks cannot be reached; a delivery thread does not die."""
        _log(self._notices)

    def wake(self) -> None:
        """Make the threads read the journal now."""
        for worker in self._workers:
            worker.wake()

    def finish(self, deadline: Deadline) -> None:
        """Wait until ``deadline`` for the threads to end; those still running end with this process."""
        self.wake()
        for worker in self._workers:
            while not worker.join(min(deadline.remaining(), THREAD_CHECK_INTERVAL)) and deadline.remaining():
                pass  # the deadline may have been brought forward
            worker.stop()
        _log(self._notices, last=True)


def _log(notices: SinkNotices, *, last: bool = False) -> None:
    for level, text in notices.poll(last=last):
        log.log(level, "%s", text)
