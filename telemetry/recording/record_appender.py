"""Turn queued values into records of the journal, and append the alerts that they cause."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping, Sequence

import msgspec

from telemetry.alerts.detector import AnomalyDetector, Divergence
from telemetry.errors import format_error
from telemetry.journal.writer import JournalWriter
from telemetry.logger import log
from telemetry.metrics import Metric
from telemetry.recording.declarations import Declarations
from telemetry.recording.drop_reasons import DropReason
from telemetry.recording.point_values import Dropped, PointConverter, name_problem, names_by_reason, redact_name
from telemetry.recording.record_queue import QueuedRecords, StreamValuesSource
from telemetry.recording.record_tally import RecordTally
from telemetry.recording.steps import parse_step
from telemetry.recording.warn_once import WarnOnce
from telemetry.records import Alert, AnyMedia, AnyRecord, Media, RunUpdate, Scalars, kind_of, now_ms
from telemetry.redaction import redact, redact_text

_NAMED = 5
"""Maximum number of values named in a warning."""


class RecordAppender:
    """Call queued callables, convert units, append the records to the journal and watch them for anomalies.

    Only the journal thread may call the methods. Any thread may read the attributes: each is replaced as a whole. An
    exception raised by a callable or a value affects only the records or values concerned, which are dropped, counted
    and reported once per reason and stream.

    Attributes:
        alerts: active anomaly alerts.
        diverged: why the run is considered diverged, or None.
        last_healthy_step: the last iteration with finite watched metrics and no loss far above its usual or lowest
            level.
    """

    def __init__(
        self,
        tally: RecordTally,
        journal: JournalWriter,
        detector: AnomalyDetector,
        declarations: Declarations | None = None,
        already_recorded: Collection[tuple[str, int]] = (),
        *,
        credentials: Collection[str] = (),
    ) -> None:
        """Prepare to append to ``journal``.

        Args:
            tally: the numbers of records, which are updated.
            journal: the writer to append to; committing is left to the caller.
            detector: the anomaly detector, which observes each record.
            declarations: the declared metrics; others are added when they appear.
            already_recorded: (stream, step) of points that earlier attempts have recorded, and that are therefore not
                appended again.
            credentials: credentials that are removed from parameters, in addition to what looks like one.
        """
        self.alerts: tuple[Alert, ...] = ()
        self.diverged: Divergence | None = None
        self.last_healthy_step = detector.last_healthy_step
        self._tally = tally
        self._journal = journal
        self._detector = detector
        self._converter = PointConverter(declarations)
        self._credentials = credentials
        self._already_recorded = already_recorded
        self._warn_once = WarnOnce()

    def append(self, item: QueuedRecords) -> None:
        """Append the records of a dequeued item, each followed by the alerts that it causes."""
        if isinstance(item.values, Alert):
            self._append_published_alert(item, item.values)
        elif isinstance(item.values, RunUpdate):
            self._append_update(item, item.values)
        elif isinstance(item.values, Media):
            self._append_media(item, item.values)
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
            self._lose(item, item.streams, "no values", format_error(error))
            return
        for stream in item.streams:
            try:
                record = self._append_point(item, stream, values_by_stream[stream])
            except BaseException as error:  # noqa: BLE001 - the values are user code, too
                missing = isinstance(error, KeyError) and error.args == (stream,)
                self._lose(item, (stream,), "no values", "it has no values" if missing else format_error(error))
                continue
            if record is not None:
                self._tally.note_step(record.step)
                self._append_alerts(self._detector.observe(record, partial=item.final))

    def _append_point(self, item: QueuedRecords, stream: str, published: Mapping[str, object]) -> Scalars | None:
        """Append a record unless earlier attempts have recorded it, and return it; None if it is lost."""
        if problem := name_problem(stream):
            self._lose(item, (stream,), "invalid name", problem)
            return None
        values, dropped, appeared, hints = self._converter.convert(stream, published)
        self._report_dropped(item, stream, dropped)
        self._declare(appeared)
        for hint in hints:
            self._warn_once(hint, hint)
        if dropped and not values:
            self._tally.lose(1)
            return None
        record = Scalars(seq=0, time=item.time, stream=redact_name(stream), step=item.step, values=values)
        if (record.stream, item.step) in self._already_recorded:
            self._tally.withdraw()
            return record
        try:
            self.append_numbered(record)
        except ValueError as error:
            self._lose(item, (stream,), "line too long", str(error))
            return None
        return record

    def _append_published_alert(self, item: QueuedRecords, alert: Alert) -> None:
        try:
            title, text = redact_text(alert.title)[:250], redact_text(alert.text)[:4000]
            alert = msgspec.structs.replace(alert, step=parse_step(alert.step), title=title, text=text)
            msgspec.convert(msgspec.to_builtins(alert), Alert)
            self.append_numbered(alert)
        except BaseException as error:  # noqa: BLE001 - its title, text and step come from the caller
            self._lose(item, item.streams, "invalid alert", format_error(error))

    def _append_update(self, item: QueuedRecords, update: RunUpdate) -> None:
        """Append parameters, and the declarations of metrics that have none yet."""
        try:
            metrics = self._converter.declarations.declare(update.metrics)
            params = redact(update.params, credentials=self._credentials)
            if not metrics and not params:
                # Patterns need no record.
                self._tally.withdraw(None)
                return
            self._append_numbered_update(RunUpdate(seq=0, time=item.time, metrics=metrics, params=params))
        except BaseException as error:  # noqa: BLE001 - the parameters come from the caller
            self._lose(item, item.streams, "invalid parameters", format_error(error))

    def _append_media(self, item: QueuedRecords, record: AnyMedia) -> None:
        try:
            self.append_numbered(record)
        except ValueError as error:
            self._lose(item, item.streams, "line too long", str(error))
        else:
            self._tally.note_step(record.step)
            self._tally.note_media(kind_of(record))

    def _declare(self, metrics: Mapping[str, Metric]) -> None:
        """Append the declarations of metrics that have appeared."""
        if metrics:
            self._append_numbered_update(RunUpdate(seq=0, time=now_ms(), metrics=dict(metrics)))
            self._tally.offer(1)

    def _append_numbered_update(self, update: RunUpdate) -> None:
        self.append_numbered(update)
        self._detector.declare(update.metrics)

    def _append_alerts(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self._tally.offer(1)
            self.append_numbered(alert)
            log.log(logging.INFO if alert.recovered else logging.WARNING, "iteration %d: %s", alert.step, alert.title)
            others = (other for other in self.alerts if other.cause != alert.cause)
            self.alerts = tuple(others) if alert.recovered else (*others, alert)
        self.diverged, self.last_healthy_step = self._detector.diverged, self._detector.last_healthy_step

    def _report_dropped(self, item: QueuedRecords, stream: str, dropped: Sequence[Dropped]) -> None:
        for reason, values in names_by_reason(dropped).items():
            self._tally.drop(reason, len(values))
            names = ", ".join(value.name[:50] for value in values[:_NAMED])
            if len(values) > _NAMED:
                names += f" and {len(values) - _NAMED} others"
            message = f"dropping {names} of {stream} at iteration {item.step}: {values[0].text}"
            self._warn_once(f"{reason} {stream}", message)

    def _lose(self, item: QueuedRecords, streams: Sequence[str], reason: DropReason, text: str) -> None:
        self._tally.lose(len(streams), reason)
        names = ", ".join(str(stream)[:50] for stream in streams)
        self._warn_once(f"{reason} {names}", f"dropping {names} at iteration {item.step}: {text}")


def _with_seq(record: AnyRecord, seq: int) -> AnyRecord:
    return msgspec.structs.replace(record, seq=seq)
