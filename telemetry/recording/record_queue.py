"""The bounded queue between the threads that publish and the journal thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from telemetry.recording.drop_reasons import DropReason
from telemetry.recording.limits import DEFAULT_LIMITS
from telemetry.recording.record_tally import RecordTally
from telemetry.recording.warn_once import WarnOnce
from telemetry.records import Alert, AnyMedia, Closed, RunUpdate, now_ms

ValuesSource = Mapping[str, float] | Callable[[], Mapping[str, float]]
"""The values of a stream by metric name, or a callable that returns them and is called in the journal thread."""
StreamValuesSource = Mapping[str, Mapping[str, float]] | Callable[[], Mapping[str, Mapping[str, float]]]
"""The values of several streams, by stream, or a callable that returns them."""

OtherRecord = Alert | RunUpdate | AnyMedia
"""A record other than a point; it gets its number in the journal thread."""


class QueuedRecords(msgspec.Struct, frozen=True):
    """The records offered by one call: one for each of ``streams``, or one record of another kind.

    ``number`` counts the records enqueued up to and including these; ``time`` is in ms since 1970.
    """

    streams: tuple[str, ...]
    step: int
    time: int
    values: StreamValuesSource | OtherRecord
    number: int
    final: bool = False


class RecordQueue:
    """Pass records from the publishing threads to the journal thread, and count them.

    Any thread may publish, flush and close; the other methods are for the journal thread. The lock is the only one
    shared by these threads; it is not held while records are converted or written. It is reentrant, because a signal
    handler may publish or close while the interrupted code holds it.

    Attributes:
        tally: the numbers of records.
    """

    def __init__(
        self, folder: Path, capacity: int = DEFAULT_LIMITS.queue_capacity, resumed_step: int | None = None
    ) -> None:
        """Create an empty queue.

        Args:
            folder: the run folder, named in warnings.
            capacity: maximum number of records waiting to be written; further records are dropped and counted.
            resumed_step: the iteration after which the run resumes, before which a first point causes a warning; None
                for no warning.
        """
        self.tally = RecordTally()
        self._folder = folder
        self._capacity = capacity
        self._changed = threading.Condition(threading.RLock())
        self._items: deque[QueuedRecords] = deque()
        self._last_steps: dict[str, int] = {}
        self._resumed_step = resumed_step
        self._warn_once = WarnOnce()
        self._closed: Closed | None = None
        self._last_seq = self._enqueued = 0
        # ``QueuedRecords.number`` of the last item dequeued, and of the last item written or lost.
        self._dequeued_up_to = self._written_up_to = 0

    def put(self, streams: tuple[str, ...], step: int, values: StreamValuesSource, *, final: bool = False) -> None:
        """Enqueue a record for each stream; drop and count them if the queue is full or closed.

        Args:
            streams: the names of the streams.
            step: the global iteration; a warning is logged once if it decreases within a stream.
            values: the values by stream; the caller must not change them afterwards.
            final: whether to leave out streams whose last record already has this step.
        """
        with self._changed:
            if final:
                offered, streams = streams, tuple(s for s in streams if self._last_steps.get(s) != step)
                if repeated := len(offered) - len(streams):
                    self.tally.drop("already recorded", repeated)
            if not streams or not self._enqueue(streams, step, values, final=final):
                return
            for stream in streams:
                last = self._last_steps.get(stream, step)
                if stream not in self._last_steps and step < (self._resumed_step or 0):
                    self._warn_once("step", _starts_again(stream, step, self._resumed_step))
                if step < last:
                    message = f"step of {stream} decreased from {last} to {step}; pass resume_step when resuming a run"
                    self._warn_once("step", message)
                self._last_steps[stream] = step

    def reject(self, streams: Sequence[str], problem: ValueError, reason: DropReason = "invalid step") -> None:
        """Count records as lost because they are invalid, with one warning for each reason."""
        self.tally.offer(len(streams))
        self.tally.lose(len(streams), reason)
        self._warn_once(reason, f"dropping {', '.join(map(str, streams))}: {problem}")

    def put_record(self, kind: str, step: int, record: OtherRecord, *, offered: bool = False) -> None:
        """Enqueue a record of another kind than points; drop and count it if the queue is full or closed.

        ``offered``: it was counted as offered before.
        """
        with self._changed:
            self._enqueue((kind,), step, record, offered=offered)

    def _enqueue(
        self,
        streams: tuple[str, ...],
        step: int,
        values: StreamValuesSource | OtherRecord,
        *,
        final: bool = False,
        offered: bool = False,
    ) -> bool:
        if not offered:
            self.tally.offer(len(streams))
        if self._closed is not None or self.tally.unwritten > self._capacity:
            self.tally.lose(len(streams), "queue full" if self._closed is None else "run closed")
            self._warn_dropped(step)
            return False
        self._enqueued += len(streams)
        self._items.append(QueuedRecords(streams, step, now_ms(), values, self._enqueued, final))
        self._changed.notify_all()
        return True

    def _warn_dropped(self, step: int) -> None:
        if self._closed is not None:
            self._warn_once("closed", f"dropping points from iteration {step}: the run in {self._folder} is closed")
        else:
            why = f"the queue is full ({self._capacity} records are waiting for the disk)"
            self._warn_once("full", f"dropping points from iteration {step}: {why}")

    def take(self, timeout: float, *, wake_on_close: bool = True) -> Sequence[QueuedRecords]:
        """Dequeue all items; if there are none, wait up to ``timeout`` seconds for one.

        Args:
            timeout: maximum time to wait, in seconds.
            wake_on_close: whether to return early when the queue is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or (wake_on_close and self._closed is not None), timeout)
            items = tuple(self._items)
            self._items.clear()
            if items:
                self._dequeued_up_to = items[-1].number
            return items

    def mark_written(self, records: int, last_seq: int) -> None:
        """Count dequeued records as journaled, and wake ``flush``: every dequeued record is now written or lost.

        Args:
            records: number of records that became durable since the last call.
            last_seq: sequence number of the last record.
        """
        with self._changed:
            self.tally.write(records)
            self._last_seq = last_seq
            self._written_up_to = self._dequeued_up_to
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until everything offered so far is written or lost; return False after ``timeout`` seconds."""
        with self._changed:
            goal = self._items[-1].number if self._items else self._dequeued_up_to
            return self._changed.wait_for(lambda: self._written_up_to >= goal, timeout)

    def close(self, closed: Closed) -> bool:
        """Accept no further records, and wake the journal thread; return False if the queue was already closed."""
        with self._changed:
            if self._closed is not None:
                return False
            self._closed = closed
            self._changed.notify_all()
            return True

    @property
    def closed(self) -> Closed | None:
        """The last record of this attempt, passed to ``close``; None while the queue is open."""
        return self._closed

    @property
    def is_drained(self) -> bool:
        """Whether the queue is closed and everything in it has been dequeued."""
        with self._changed:
            return self._closed is not None and not self._items

    @property
    def streams(self) -> Collection[str]:
        """The streams of which points have been enqueued."""
        return self._last_steps.keys()

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record in the journal; 0 before the first."""
        return self._last_seq


def _starts_again(stream: str, step: int, resumed: int | None) -> str:
    return (
        f"step {step} of {stream} is before {resumed}, the step after which the run resumes; pass the step of the "
        "checkpoint as resume_step (0 to start again), which supersedes later points"
    )
