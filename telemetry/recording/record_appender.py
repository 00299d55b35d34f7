"""Turn queued values into records of the journal, and append the alerts that they cause."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Sequence

import msgspec

from telemetry.alerts.detector import AnomalyDetector, Divergence
from telemetry.errors import format_error
from telemetry.journal.writer import JournalWriter
from telemetry.recording.record_queue import QueuedRecords, RecordQueue, StreamValuesSource
from telemetry.recording.warn_once import WarnOnce
from telemetry.records import MAX_NAME_LENGTH, MAX_STEP, Alert, AnyRecord, Scalars
from telemetry.units import Transform

log = logging.getLogger("telemetry")


class RecordAppender:
    """Call queued callables, convert units, append the records to the journal and watch them for anomalies.

    Only the journal thread may call the methods. Any thread may read the attributes: each is replaced as a whole. An
    exception raised by a callable or a value affects only the records concerned, which are dropped and counted as lost.

    Attributes:
        alerts: active anomaly alerts.
        diverged: why the run is considered diverged, or None.
        last_healthy_step: the last iteration with finite watched metrics and no loss far above its usual or lowest
            level.
    """

    def __init__(
        self,
        queue: RecordQueue,
        journal: JournalWriter,
        detector: AnomalyDetector,
        transforms: Sequence[Transform] = (),
    ) -> None:
        """Prepare to append to ``journal``.

        Args:
            queue: the queue, which counts the records.
            journal: the writer to append to; committing is left to the caller.
            detector: the anomaly detector, which observes each record.
            transforms: transforms applied in order to the values of each stream before they are recorded.
        """
        self.alerts: tuple[Alert, ...] = ()
        self.diverged: Divergence | None = None
        self.last_healthy_step = detector.last_healthy_step
        self._queue = queue
        self._journal = journal
        self._detector = detector
        self._transforms = transforms
        self._warn_once = WarnOnce()

    def append(self, item: QueuedRecords) -> None:
        """Append the records of a dequeued item, each followed by the alerts that it causes."""
        if isinstance(item.values, Alert):
            self._append_published_alert(item, item.values)
        else:
            self._append_scalars(item, item.values)

    def check_silence(self) -> None:
        """Append an alert if training has stalled. Called every few seconds."""
        self._append_alerts(self._detector.check_silence())

    def append_numbered(self, record: AnyRecord) -> None:
        """Append a record with the next sequence number.

        Raises:
            ValueError: the record is too long for a line.
        """
        self._journal.append(functools.partial(_with_seq, record))

    def _append_scalars(self, item: QueuedRecords, source: StreamValuesSource) -> None:
        try:
            values_by_stream = source() if callable(source) else source
        except BaseException as error:  # noqa: BLE001 - user code, which must not end the journal thread
            self._count_lost(item, item.streams, error)
            return
        for stream in item.streams:
            try:
                values = values_by_stream[stream]
                for transform in self._transforms:
                    values = transform(stream, values)
                record = _scalars(item, stream, {name: float(value) for name, value in values.items()})
                self.append_numbered(record)
            except BaseException as error:  # noqa: BLE001 - transforms and values are user code, too
                self._count_lost(item, (stream,), error)
            else:
                self._queue.note_step(record.step)
                self._append_alerts(self._detector.observe(record, partial=item.final))

    def _append_published_alert(self, item: QueuedRecords, alert: Alert) -> None:
        try:
            alert = msgspec.structs.replace(alert, step=operator.index(alert.step))
            msgspec.convert(msgspec.to_builtins(alert), Alert)
            self.append_numbered(alert)
        except BaseException as error:  # noqa: BLE001 - its title, text and step come from the caller
            self._count_lost(item, item.streams, error)

    def _append_alerts(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self._queue.add_generated()
            self.append_numbered(alert)
            log.log(logging.INFO if alert.recovered else logging.WARNING, "iteration %d: %s", alert.step, alert.title)
            others = (other for other in self.alerts if other.cause != alert.cause)
            self.alerts = tuple(others) if alert.recovered else (*others, alert)
        self.diverged, self.last_healthy_step = self._detector.diverged, self._detector.last_healthy_step

    def _count_lost(self, item: QueuedRecords, streams: Sequence[str], error: BaseException) -> None:
        self._queue.count_lost(len(streams))
        self._warn_once("values", f"dropping {', '.join(streams)} at iteration {item.step}: {format_error(error)}")


def _scalars(item: QueuedRecords, stream: str, values: dict[str, float]) -> Scalars:
    """Return the record of a stream.

    Raises:
        ValueError: readers would reject the line as damaged, because the step is out of range, or a name is empty
            or too long.
    """
    step = operator.index(item.step)
    if not 0 <= step < MAX_STEP:
        msg = f"step {step} is not between 0 and {MAX_STEP - 1}"
        raise ValueError(msg)
    for name in (stream, *values):
        if not 0 < len(name) <= MAX_NAME_LENGTH:
            msg = f"the name {name[:20]!r} has {len(name)} characters; names have 1 to {MAX_NAME_LENGTH}"
            raise ValueError(msg)
    return Scalars(seq=0, time=item.time, stream=stream, step=step, values=values)


def _with_seq(record: AnyRecord, seq: int) -> AnyRecord:
    return msgspec.structs.replace(record, seq=seq)
