"""The thread that empties the queue into the journal."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from telemetry.delivery.supervisor import DeliverySupervisor
from telemetry.journal.writer import JournalWriter
from telemetry.recording.disk_failures import FailureTolerantCommitter
from telemetry.recording.limits import DEFAULT_LIMITS, RecordingLimits
from telemetry.recording.record_appender import RecordAppender
from telemetry.recording.record_queue import RecordQueue
from telemetry.recording.warn_once import WarnOnce
from telemetry.run_folder.heartbeat import Heartbeat, write_heartbeat
from telemetry.run_folder.job_identity import current_job
from telemetry.run_folder.process_identity import current_process


class JournalThread(threading.Thread):
    """Write queued records to the journal, show that the trainer is alive, and supervise the deliveries.

    The public members are for other threads; everything private runs in this one. The thread ends when the queue has
    been closed and everything in it, followed by the ``Closed`` record, is durable. Until then it retries a failing
    disk, so ``join`` needs a timeout.
    """

    def __init__(
        self,
        folder: Path,
        queue: RecordQueue,
        journal: JournalWriter,
        appender: RecordAppender,
        supervisor: DeliverySupervisor,
        *,
        attempt: int = 1,
        limits: RecordingLimits = DEFAULT_LIMITS,
    ) -> None:
        """Create the thread without starting it.

        Args:
            folder: the run folder.
            queue: the queue of published records.
            journal: the writer of the journal, owned by this thread from now on.
            appender: the object that appends dequeued records to ``journal``.
            supervisor: the deliveries of the journal to the sinks.
            attempt: number of this attempt of the run, counted from 1.
            limits: intervals and delays.
        """
        super().__init__(name="telemetry-journal", daemon=True)
        self.queue = queue
        self.appender = appender
        self.supervisor = supervisor
        self._folder = folder
        self._journal = journal
        self._attempt = attempt
        self._limits = limits
        self._identity = current_process()
        self._job = current_job()
        self._warn_once = WarnOnce()
        self._committer = FailureTolerantCommitter(folder, journal, limits)
        self._deliveries_started = False
        # Training starts by importing torch; deliveries that import their backends meanwhile would slow it down.
        self._start_deliveries_at = time.monotonic() + self._limits.delivery_start_delay
        self._supervise_at = self._heartbeat_at = time.monotonic()
        self._heartbeats = 0
        self._closed_appended = False

    @property
    def is_committing(self) -> bool:
        """Whether a write to the disk is in progress. If it still is after ``join``, the disk hangs."""
        return self._committer.is_running

    def start_deliveries(self) -> None:
        """Start the deliveries unless they were started before; other threads may call this only after ``join``."""
        if not self._deliveries_started:
            self._deliveries_started = True
            self.supervisor.start()

    def run(self) -> None:
        """Process the queue until the run is closed and all its records are durable."""
        avoid_preemption()
        while not self._closed_appended or self._journal.pending:
            self._write_dequeued()
            now = time.monotonic()
            if now >= self._supervise_at:
                self._supervise_at = now + self._limits.supervise_interval
                self._supervise()
            if now >= self._heartbeat_at:
                self._heartbeat_at = now + self._limits.heartbeat_interval
                self._heartbeats += 1
                self._write_heartbeat(self._heartbeats)
            self._append_closed_if_last()
        self._write_heartbeat(-1)
        self._journal.close()

    def _write_dequeued(self) -> None:
        """Wait for records, then append and commit them, along with any that an earlier call could not commit."""
        wake_at = min(self._supervise_at, self._heartbeat_at)
        if self._journal.pending:
            wake_at = min(wake_at, self._committer.retry_at)
        # A closed queue wakes this thread once; after that, while records are pending, only the retry time does.
        wake_on_close = not self._committer.is_closing or not self._journal.pending
        items = self.queue.take(max(0.0, wake_at - time.monotonic()), wake_on_close=wake_on_close)
        if self.queue.closed is not None:
            self._committer.start_closing()
        elif items or time.monotonic() >= self._start_deliveries_at:
            # Before the first record is durable, so that it is delivered even if the trainer is killed right after.
            self.start_deliveries()
        for item in items:
            self.appender.append(item)
        self._commit()

    def _append_closed_if_last(self) -> None:
        closed = self.queue.closed
        if closed is not None and not self._closed_appended and self.queue.is_drained and not self._journal.pending:
            self._closed_appended = True
            self.appender.append_numbered(closed)

    def _commit(self) -> None:
        pending = self._journal.pending
        if self._committer.commit():
            # The ``Closed`` record was never offered, so it is not counted.
            self.queue.mark_written(0 if self._closed_appended else pending, self._journal.last_seq)

    def _supervise(self) -> None:
        # While the run is being closed, the closing thread supervises the deliveries.
        if self.queue.closed is None:
            if self._deliveries_started:
                self.supervisor.supervise()
            self.appender.check_silence()

    def _write_heartbeat(self, beat: int) -> None:
        heartbeat = Heartbeat(
            trainer=self._identity,
            attempt=self._attempt,
            beat=beat,
            counts=self.queue.tally.counts(),
            job=self._job,
        )
        try:
            write_heartbeat(self._folder, heartbeat)
        except OSError as error:
            self._warn_once("heartbeat", f"cannot write alive.json in {self._folder} ({error})")


def avoid_preemption() -> None:
    """Let this thread, and those it starts, wait for an idle core or their turn instead of preempting another thread.

    Otherwise each ``publish`` that wakes it may suspend the training thread, for milliseconds if the cores are busy.
    Its share of the time is unchanged, because the training thread may wait for the interpreter lock that it holds.
    Another scheduling class, which the user has chosen, is kept.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):  # access is denied
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
