"""From records to TensorBoard's ``Event`` messages and back.

Each event that stands for a record has the record's sequence number in ``source_metadata.writer``. The first event of
each file names the run there, so that one look at a file tells whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sinks._run_tables import escape
from telemetry.sink_api import Alert, Chart, Metric, Record, Resumed, RunRecord, Scalars, with_unit

_SEQ = re.compile(r"aimnet2mult seq=(\d+)")
_RUN = re.compile(r"aimnet2mult started=(\d+) run=(.*)", re.DOTALL)
FILE_VERSION = "brain.Event:2"
"""From this version on readers take ``SessionLog.START``, and not a step that goes back, for a restart."""

Event = Any
"""tensorboard's message; the package has no types."""


@dataclass
class Held:
    """What the events of a run tell about it, taken in one by one in the order of writing.

    Attributes:
        last_seq: the highest sequence number.
        step, time: the iteration that was reached last, and when, in seconds since 1970.
        session: there is the event that begins the first session.
        notes: the text or layout that was written last under each tag, with its step.
    """

    last_seq: int = 0
    step: int = 0
    time: float = 0.0
    session: bool = False
    notes: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take one more event in."""
        seq = _SEQ.fullmatch(event.source_metadata.writer)
        if seq is not None:
            self.last_seq = max(self.last_seq, int(seq[1]))
            self.step = event.step - 1 if event.HasField("session_log") else event.step
            self.time = event.wall_time
        elif event.HasField("session_log"):
            self.session = True
        else:
            for value in event.summary.value:
                self.notes[value.tag] = event.step, value.tensor.SerializeToString(deterministic=True)


def owner(event: Event) -> tuple[str, int] | None:
    """Give the run (its id, and when it started, in ms) whose file begins with this event; None for a stranger's."""
    match = _RUN.fullmatch(event.source_metadata.writer)
    return None if match is None else (match[2], int(match[1]))


class Events:
    """Makes the events of one run. Imports tensorboard's messages, but neither TensorFlow nor its stand-in."""

    def __init__(self, run: RunRecord) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2  # type: ignore[import-untyped]

        self._run = run
        self._event = event_pb2.Event
        self._session = event_pb2.SessionLog
        self._source = event_pb2.SourceMetadata
        self._summary = summary_pb2.Summary
        self._value = summary_pb2.Summary.Value
        self._scalar_class = summary_pb2.DATA_CLASS_SCALAR
        self._tensor = tensor_pb2.TensorProto
        self._string = types_pb2.DT_STRING
        self._undescribed = _descriptions(run.metrics)

    def parse(self, data: bytes) -> Event:
        """Read an event; raises google.protobuf's DecodeError."""
        return self._event.FromString(data)

    def head(self) -> Event:
        """Give the first event of a file."""
        writer = f"aimnet2mult started={self._run.started} run={self._run.run_id}"
        return self._event(
            wall_time=self._run.started / 1000,
            file_version=FILE_VERSION,
            source_metadata=self._source(writer=writer),
        )

    def session(self) -> Event:
        """Give the event that begins the first session.

        The server's own loader takes the first START for this one, and only later ones for a rewind.
        """
        return self._start(self._run.started, 0)

    def record(self, record: Record) -> Event | None:
        """Give the event that stands for a record; None for the kinds that show nothing."""
        if isinstance(record, Scalars):
            return self._event(
                wall_time=record.time / 1000,
                step=record.step,
                summary=self._summary(value=[self._scalar(*item) for item in record.items()]),
                source_metadata=self._mark(record),
            )
        if isinstance(record, Resumed):
            # Readers drop what has this step or a higher one.
            event = self._start(record.time, record.step + 1)
            event.source_metadata.CopyFrom(self._mark(record))
            return event
        if isinstance(record, Alert):
            text = f"**{escape(record.title)}**" + (f": {escape(record.text)}" if record.text else "")
            event = self.text("run/alerts", f"{record.level}: {text}", step=record.step, time=record.time / 1000)
            event.source_metadata.CopyFrom(self._mark(record))
            return event
        return None

    def text(self, tag: str, markdown: str, *, step: int = 0, time: float) -> Event:
        """Give an event that shows a text; ``time`` in seconds since 1970."""
        return self._note(tag, "text", markdown.encode(), step, time)

    def layout(self, charts: Mapping[str, Iterable[Chart]], *, time: float) -> Event:
        """Give the event that lays out the Custom Scalars tab, only its first heading unfolded."""
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata  # type: ignore[import-untyped]

        layout = layout_pb2.Layout()
        for heading, content in charts.items():
            category = layout.category.add(title=heading, closed=bool(layout.category))
            for chart in content:
                # Tags are given as regular expressions that match from the beginning.
                tags = [f"^{re.escape(name)}$" for name in chart.names]
                category.chart.add(title=chart.title, multiline={"tag": tags})
        data = layout.SerializeToString(deterministic=True)
        return self._note(metadata.CONFIG_SUMMARY_TAG, metadata.PLUGIN_NAME, data, 0, time)

    def _scalar(self, name: str, value: float) -> Any:
        scalar = self._value(tag=name, simple_value=value)
        if self._undescribed and (description := self._undescribed.pop(name, None)):
            scalar.metadata.summary_description = description
            scalar.metadata.plugin_data.plugin_name = "scalars"
            # Without it the fast loader makes metadata of its own, and the description is lost.
            scalar.metadata.data_class = self._scalar_class
        return scalar

    def _start(self, time: int, step: int) -> Event:
        log = self._session(status=self._session.START)
        return self._event(wall_time=time / 1000, step=step, session_log=log)

    def _note(self, tag: str, plugin: str, data: bytes, step: int, time: float) -> Event:
        value = self._value(tag=tag)
        value.metadata.plugin_data.plugin_name = plugin
        # Of rank 0: a text is then read as Markdown, and not as a column of texts.
        value.tensor.CopyFrom(self._tensor(dtype=self._string, tensor_shape={}, string_val=[data]))
        return self._event(wall_time=time, step=step, summary=self._summary(value=[value]))

    def _mark(self, record: Record) -> Any:
        return self._source(writer=f"aimnet2mult seq={record.seq}")


def _descriptions(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Give what TensorBoard shows beside each chart, in Markdown; each goes with the first value of its tag."""
    texts = {name: with_unit(metric.label, metric.unit) for name, metric in metrics.items()}
    return {name: escape(text.strip()) for name, text in texts.items() if text}
