"""MetricBus: takes what training offers, and makes it durable from a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import operator
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from telemetry.alerts.detector import AnomalyDetector, Divergence
from telemetry.cadence import Cadence
from telemetry.delivery.receipt import Receipt, receipt, unread_receipt
from telemetry.delivery.supervisor import DeliverySupervisor
from telemetry.errors import TelemetryError, format_error
from telemetry.journal.writer import JournalWriter
from telemetry.records import MAX_NAME_LENGTH, MAX_STEP, Alert, AnyRecord, Closed, Level, Scalars, Status, now_ms
from telemetry.run_folder.heartbeat import HEARTBEAT_INTERVAL, Counts, Heartbeat, write_heartbeat
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import read_progress
from telemetry.units import Transform

log = logging.getLogger("telemetry")

Values = Mapping[str, float] | Callable[[], Mapping[str, float]]
"""The values of a stream, or a callable that gives them in the writer's thread."""
Group = Mapping[str, Mapping[str, float]] | Callable[[], Mapping[str, Mapping[str, float]]]
"""The values of several streams, by stream."""

QUEUE = 10_000
"""Records that wait for the disk at most; what comes on top is dropped and counted."""
TICK = 2.0
"""Seconds between two looks at the deliveries."""
PATIENCE = 15.0
"""Seconds that the deliveries wait for a first record at most."""
FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds before the journal is tried again after an error of the disk; doubled each time."""
LAST_TRIES = 0.1
"""Seconds before the first of the retries that follow the closing of the run."""
FLUSH_TIMEOUT = 5.0
"""Seconds that the end of a run waits for the disk."""


class _Item(msgspec.Struct, frozen=True):
    streams: tuple[str, ...]
    step: int
    time: int
    values: Group | Alert
    number: int
    final: bool = False


class MetricBus:
    """Publish metrics; made by ``telemetry.open_run``. Any thread may publish; no method but ``flush`` and
    ``close`` waits for anything, and none raises because of a disk or a backend.

    Args:
        folder: the run folder.
        journal: owned by the bus's thread from now on.
        cadence: which iterations are due.
        factors: from the source unit to the unit of each metric, by full name; for hosts that show values themselves.
        transforms: run on the values of each stream, in order, before they are journaled.
        watch: looks at what is journaled; used by the bus's thread.
        workers: the deliveries.
        attempt: of the run, from 1.
        drain_timeout: seconds that ``close`` waits for the sinks by default.
    """

    def __init__(
        self,
        folder: Path,
        journal: JournalWriter,
        *,
        cadence: Cadence,
        factors: Mapping[str, float],
        transforms: Sequence[Transform],
        watch: AnomalyDetector,
        workers: DeliverySupervisor,
        attempt: int,
        drain_timeout: float,
    ) -> None:
        self.folder = folder
        self.cadence = cadence
        self.due = cadence.due
        self.factors = factors
        self._journal = journal
        self._transforms = transforms
        self._watch = watch
        self.alerts: tuple[Alert, ...] = ()
        """What the watch has told of and is not over yet; replaced as a whole, by the bus's thread."""
        self.diverged: Divergence | None = None
        """Why the training is to be held for diverged; None as long as it is not."""
        self.last_healthy_step = watch.last_healthy_step
        """The last iteration at which the training was well, as far as the watch can tell."""
        self._workers = workers
        self._attempt = attempt
        self._drain_timeout = drain_timeout
        # A training begins with the import of torch, and the deliveries with that of their backends, which would be in
        # its way.
        self._deliver_at = time.monotonic() + PATIENCE
        self._delivers = False
        self._identity = current_process()
        self._queue: deque[_Item] = deque()
        self._queued = 0
        self._last: dict[str, int] = {}
        self._changed = threading.Condition()
        # One that may be taken again: a signal's handler may close the run in the middle of its closing.
        self._closing = threading.RLock()
        self._offered = self._journaled = self._lost = self._step = self._last_seq = 0
        # The number of the last item that the writer took from the queue, and of the last that it has done with.
        self._taken = self._settled = 0
        self._beat = 0
        self._warned: set[str] = set()
        self._status: Closed | None = None
        self._ended = False
        self._at_disk = False
        self._retry_at = 0.0
        self._retry_delay = FIRST_RETRY
        self._receipt: Receipt | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry-writer", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def publish(self, stream: str, step: int, values: Values, *, final: bool = False) -> None:
        """Offer the values of one stream at iteration ``step``; what is not due is not taken.

        Args:
            stream: ``train``, ``val`` …
            step: the global iteration. One that goes back is taken, and said once: the curves go back with it.
            values: by metric name, in source units; or a callable that gives them, run by the bus's thread.
            final: take it whatever the cadence, unless this stream has a point at this iteration already.
        """
        if callable(values):
            get = values
            self.publish_group((stream,), step, lambda: {stream: get()}, final=final)
        else:
            self.publish_group((stream,), step, {stream: values}, final=final)

    def publish_group(self, streams: Sequence[str], step: int, values: Group, *, final: bool = False) -> None:
        """Offer the values of several streams at one iteration: they are written together.

        ``values`` is a mapping by stream, or a callable that gives one; see ``publish``.
        """
        if self._is_forked():
            return
        with self._changed:
            due = tuple(s for s in streams if self._is_wanted(s, step, final=final))
            if due and self._put(due, step, _copy(values), final=final):
                for stream in due:
                    self._note_step(stream, step)

    def alert(self, title: str, text: str = "", *, step: int, level: Level = "warning") -> None:
        """Offer something that a person should know of, for every sink that has a place for it.

        Args:
            title: what happened, in a few words; cut off after 250 characters.
            text: the details; cut off after 4,000 characters.
            step: the global iteration at which it was noticed.
            level: ``info``, ``warning`` or ``error``.
        """
        if self._is_forked():
            return
        alert = Alert(seq=0, time=now_ms(), step=step, title=title[:250], text=text[:4000], level=level)
        with self._changed:
            self._put(("alert",), step, alert)

    def _put(self, streams: tuple[str, ...], step: int, values: Group | Alert, *, final: bool = False) -> bool:
        """Give the writer a record of each stream; False if they are lost."""
        self._offered += len(streams)
        if self._status is not None or self._queued + len(streams) > QUEUE:
            self._lost += len(streams)
            if self._status is not None:
                self._warn("closed", f"a point at {step} is lost: the run in {self.folder} is closed")
            else:
                self._warn("full", f"points from {step} on are lost: {QUEUE} wait for the disk already")
            return False
        self._queue.append(_Item(streams, step, now_ms(), values, self._offered, final))
        self._queued += len(streams)
        self._changed.notify_all()
        return True

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Wait until everything offered so far is durable (or counted as lost); False after ``timeout`` seconds."""
        if self._is_forked():
            return True
        with self._changed:
            goal = self._queue[-1].number if self._queue else self._taken
            return self._changed.wait_for(lambda: self._settled >= goal, timeout)

    def drain(self, timeout: float) -> bool:
        """Wait until all sinks have taken everything offered so far; False after ``timeout`` seconds."""
        if self._is_forked():
            return True
        deadline = time.monotonic() + timeout
        if not self.flush(timeout):
            return False
        goal = self._last_seq
        self._workers.wake()
        while not all(self._has_taken(name, goal) for name in self._workers.names):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def _has_taken(self, name: str, goal: int) -> bool:
        progress = read_progress(self.folder, name)
        return progress is not None and progress.cursor.accepted >= goal

    def counts(self) -> Counts:
        """Say what was offered, is durable, and was lost; in records of this attempt."""
        if self._is_forked():
            return Counts()
        with self._changed:
            return Counts(offered=self._offered, journaled=self._journaled, lost=self._lost, step=self._step)

    def close(self, status: Status = "finished", *, reason: str = "", timeout: float | None = None) -> Receipt | None:
        """End the run: write how it ended, wait for the sinks, give the receipt. A second call gives the same one.

        Args:
            status: how the training ended.
            reason: in a few words, where that says more.
            timeout: seconds to wait for the sinks, ``drain_timeout`` by default; what they have not taken by then is
                delivered by the processes that outlive this one, or by ``telemetry sync``.

        Returns:
            The receipt; None in a forked child, which has nothing to close.
        """
        if self._is_forked():
            return None
        with self._closing:
            # A file name in it may be no text.
            words = reason[:1000].encode(errors="replace").decode()
            if self._stop(Closed(seq=0, time=now_ms(), status=status, reason=words)):
                atexit.unregister(self._at_exit)
                # A disk that hangs keeps this thread for ever; it is left behind.
                self._thread.join(FLUSH_TIMEOUT)
                self._deliver()
                self._workers.finish(self._drain_timeout if timeout is None else timeout)
                self._receipt = self._read_receipt()
            return self._receipt

    def _deliver(self) -> None:
        """Start the deliveries, unless they have been."""
        if not self._delivers:
            self._delivers = True
            self._workers.start()

    def _read_receipt(self) -> Receipt:
        # Reading from a disk that hangs would hang too, and one that cannot be read is no reason to fail at the end.
        if not self._at_disk:
            with contextlib.suppress(OSError, TelemetryError):
                return receipt(self.folder, self.counts())
        return unread_receipt(self.folder, self.counts())

    def _stop(self, closed: Closed) -> bool:
        """Tell the writer to end the run; False if it has been told before."""
        with self._changed:
            if self._status is not None:
                return False
            self._status = closed
            # A disk that has been full may have room again, and there is not much time left to see.
            self._retry_at, self._retry_delay = 0.0, LAST_TRIES
            self._changed.notify_all()
            return True

    def __enter__(self) -> MetricBus:
        """Give the bus."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run: as failed if an exception is passing through."""
        if kind is None:
            self.close("finished")
        else:
            self.close("failed", reason=f"{kind.__name__}: {error}")

    def _at_exit(self) -> None:
        self.close("failed", reason="the bus was never closed")

    def _is_wanted(self, stream: str, step: int, *, final: bool) -> bool:
        return self._last.get(stream) != step if final else self.due(stream, step)

    def _note_step(self, stream: str, step: int) -> None:
        last = self._last.get(stream, step)
        if step < last:
            self._warn(
                "back", f"the steps of {stream} go back, from {last} to {step}; a resume says so with resume_step"
            )
        self._last[stream] = step

    def _is_forked(self) -> bool:
        """Say whether this is a child of the process that opened the run.

        It has the bus but not its thread, and finds the lock as it was at the fork, perhaps locked for ever.
        """
        return os.getpid() != self._identity.pid

    # From here on: the writer's thread.

    def _run(self) -> None:
        next_beat = next_tick = time.monotonic()
        while True:
            items = self._take(min(next_beat, next_tick))
            # Before the first record is durable: a trainer that is killed then leaves deliveries that go on. At the
            # end, the thread that closes the run looks after them.
            if self._status is None and (items or time.monotonic() >= self._deliver_at):
                self._deliver()
            for item in items:
                self._journal_item(item)
            self._commit()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK
                if self._status is None:
                    if self._delivers:
                        self._workers.supervise()
                    self._tell(self._watch.check_silence())
            if now >= next_beat:
                next_beat = now + HEARTBEAT_INTERVAL
                self._write_beat()
            if self._status is not None and not self._queue and not self._journal.pending:
                if self._ended:
                    break
                self._end(self._status)
        self._write_beat(last=True)
        self._journal.close()

    def _take(self, until: float) -> list[_Item]:
        with self._changed:
            if self._journal.pending:
                until = min(until, self._retry_at)
            self._changed.wait_for(
                lambda: self._queue or (self._status is not None and not self._journal.pending),
                max(0.0, until - time.monotonic()),
            )
            items = list(self._queue)
            self._queue.clear()
            if items:
                self._taken = items[-1].number
            return items

    def _journal_item(self, item: _Item) -> None:
        if isinstance(item.values, Alert):
            self._journal_alert(item, item.values)
        else:
            self._journal_values(item, item.values)

    def _journal_values(self, item: _Item, given: Group) -> None:
        try:
            groups = given() if callable(given) else given
        except BaseException as error:  # noqa: BLE001 - the callable is the host's; the writer must outlive it
            self._lose(item, item.streams, error)
            return
        for stream in item.streams:
            try:
                values = groups[stream]
                for transform in self._transforms:
                    values = transform(stream, values)
                record = self._append(item, stream, {name: float(value) for name, value in values.items()})
            except BaseException as error:  # noqa: BLE001 - transforms and values are the host's too
                self._lose(item, (stream,), error)
            else:
                self._tell(self._watch.observe(record, partial=item.final))

    def _tell(self, alerts: Sequence[Alert]) -> None:
        """Write what the watch has to tell; it counts as offered."""
        for alert in alerts:
            with self._changed:
                self._offered += 1
                self._queued += 1
            self._journal.append(functools.partial(_numbered, alert))
            log.log(logging.INFO if alert.recovered else logging.WARNING, "iteration %d: %s", alert.step, alert.title)
            others = (other for other in self.alerts if other.cause != alert.cause)
            self.alerts = tuple(others) if alert.recovered else (*others, alert)
        self.diverged, self.last_healthy_step = self._watch.diverged, self._watch.last_healthy_step

    def _journal_alert(self, item: _Item, alert: Alert) -> None:
        try:
            alert = msgspec.structs.replace(alert, step=operator.index(alert.step))
            msgspec.convert(msgspec.to_builtins(alert), Alert)
            self._journal.append(functools.partial(_numbered, alert))
        except BaseException as error:  # noqa: BLE001 - what is in it is the host's
            self._lose(item, item.streams, error)

    def _append(self, item: _Item, stream: str, values: dict[str, float]) -> Scalars:
        step = operator.index(item.step)
        if not 0 <= step < MAX_STEP:
            msg = f"step {step} is not from 0 to {MAX_STEP - 1}"
            raise ValueError(msg)
        # A reader would take such a line for damage.
        for name in (stream, *values):
            if not 0 < len(name) <= MAX_NAME_LENGTH:
                msg = f"the name {name[:20]!r} is of {len(name)} characters; it has 1 to {MAX_NAME_LENGTH}"
                raise ValueError(msg)
        record = Scalars(seq=0, time=item.time, stream=stream, step=step, values=values)
        self._journal.append(functools.partial(_numbered, record))
        self._step = max(self._step, step)
        return record

    def _end(self, closed: Closed) -> None:
        self._ended = True
        self._journal.append(functools.partial(_numbered, closed))

    def _lose(self, item: _Item, streams: Sequence[str], error: BaseException) -> None:
        with self._changed:
            self._lost += len(streams)
            self._queued -= len(streams)
            self._warn("values", f"{', '.join(streams)} at {item.step} is lost: {format_error(error)}")
            self._changed.notify_all()

    def _commit(self) -> None:
        waiting = self._journal.pending
        if not waiting:
            self._settle(0)
            return
        if time.monotonic() < self._retry_at:
            return
        self._at_disk = True
        try:
            self._journal.commit()
        except OSError as error:
            self._retry_at = time.monotonic() + self._retry_delay
            self._retry_delay = min(LAST_RETRY, self._retry_delay * 2)
            self._warn(
                "disk",
                f"the journal in {self.folder} cannot be written ({error}); training goes on, up to {QUEUE} "
                "records wait in memory, and writing is tried again",
            )
            return
        finally:
            self._at_disk = False
        self._retry_at, self._retry_delay = 0.0, FIRST_RETRY
        if "disk" in self._warned:
            self._warned.discard("disk")
            log.warning("the journal in %s is written again; nothing that waited was lost", self.folder)
        # How the run ended is a record of its own, which nobody offered.
        self._settle(0 if self._ended else waiting)

    def _settle(self, written: int) -> None:
        with self._changed:
            self._journaled += written
            self._queued -= written
            self._last_seq = self._journal.last_seq
            self._settled = self._taken
            self._changed.notify_all()

    def _write_beat(self, *, last: bool = False) -> None:
        self._beat += 1
        beat = -1 if last else self._beat
        try:
            write_heartbeat(
                self.folder,
                Heartbeat(trainer=self._identity, attempt=self._attempt, beat=beat, counts=self.counts()),
            )
        except OSError as error:
            self._warn("beat", f"alive.json in {self.folder} cannot be written: {error}")

    def _warn(self, cause: str, message: str) -> None:
        """Log each cause once, until it has passed."""
        if cause not in self._warned:
            self._warned.add(cause)
            log.warning("%s", message)


def _numbered(record: AnyRecord, seq: int) -> AnyRecord:
    return msgspec.structs.replace(record, seq=seq)


def _copy(values: Group) -> Group:
    """Give values that stay as they are when the host goes on with its own."""
    if not isinstance(values, Mapping):
        return values
    return {stream: dict(given) if isinstance(given, Mapping) else given for stream, given in values.items()}
