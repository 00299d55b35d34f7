"""Conversion between records and TensorBoard's ``Event`` messages.

Each event that represents a record has the record's sequence number in ``source_metadata.writer``. The first event of
each file identifies the run there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sinks._run_tables import escape_markdown
from telemetry.sink_api import Alert, Chart, Metric, Record, Resumed, RunRecord, Scalars, with_unit

_RECORD_WRITER = re.compile(r"aimnet2mult seq=(\d+)")
_FILE_WRITER = re.compile(r"aimnet2mult started=(\d+) run=(.*)", re.DOTALL)
FILE_VERSION = "brain.Event:2"
"""From this version on, readers detect a restart by ``SessionLog.START`` instead of by a decreasing step."""

Event = Any
"""A TensorBoard event message; the package has no type annotations."""


@dataclass
class EventFileState:
    """The content of a run's event files, updated event by event in the order of writing.

    Attributes:
        last_seq: the highest sequence number.
        step: the iteration of the last record.
        time: the time of the last record, in seconds since 1970.
        has_session: whether the event that begins the first session is present.
        summaries: step and content of the last text or layout under each tag.
    """

    last_seq: int = 0
    step: int = 0
    time: float = 0.0
    has_session: bool = False
    summaries: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Update the state with the next event."""
        seq = _RECORD_WRITER.fullmatch(event.source_metadata.writer)
        if seq is not None:
            self.last_seq = max(self.last_seq, int(seq[1]))
            self.step = event.step - 1 if event.HasField("session_log") else event.step
            self.time = event.wall_time
        elif event.HasField("session_log"):
            self.has_session = True
        else:
            for value in event.summary.value:
                self.summaries[value.tag] = event.step, value.tensor.SerializeToString(deterministic=True)


def run_identity(event: Event) -> tuple[str, int] | None:
    """Return the run ID and start (ms since 1970) in the first event of a file; None for files of other programs."""
    match = _FILE_WRITER.fullmatch(event.source_metadata.writer)
    return None if match is None else (match[2], int(match[1]))


class EventBuilder:
    """A builder of one run's events that imports TensorBoard's messages, but neither TensorFlow nor its stub."""

    def __init__(self, run: RunRecord) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2  # type: ignore[import-untyped]

        self._run = run
        self._event = event_pb2.Event
        self._session_log = event_pb2.SessionLog
        self._source = event_pb2.SourceMetadata
        self._summary = summary_pb2.Summary
        self._value = summary_pb2.Summary.Value
        self._scalar_class = summary_pb2.DATA_CLASS_SCALAR
        self._tensor = tensor_pb2.TensorProto
        self._string = types_pb2.DT_STRING
        self._pending_descriptions = _descriptions(run.metrics)

    def parse(self, data: bytes) -> Event:
        """Return the event serialized in ``data``.

        Raises:
            google.protobuf.message.DecodeError: the data is not an event.
        """
        return self._event.FromString(data)

    def file_header(self) -> Event:
        """Return the first event of a file."""
        writer = f"aimnet2mult started={self._run.started} run={self._run.run_id}"
        return self._event(
            wall_time=self._run.started / 1000,
            file_version=FILE_VERSION,
            source_metadata=self._source(writer=writer),
        )

    def first_session(self) -> Event:
        """Return the event that begins the first session.

        The server's own loader ignores the first START, and treats only later ones as a restart.
        """
        return self._session_start(self._run.started, 0)

    def from_record(self, record: Record) -> Event | None:
        """Return the event that represents a record; None for kinds that TensorBoard does not show."""
        if isinstance(record, Scalars):
            return self._event(
                wall_time=record.time / 1000,
                step=record.step,
                summary=self._summary(value=[self._scalar(*item) for item in record.items()]),
                source_metadata=self._record_source(record),
            )
        if isinstance(record, Resumed):
            # Readers drop earlier points at this step and above.
            event = self._session_start(record.time, record.step + 1)
            event.source_metadata.CopyFrom(self._record_source(record))
            return event
        if isinstance(record, Alert):
            text = f"**{escape_markdown(record.title)}**" + (f": {escape_markdown(record.text)}" if record.text else "")
            event = self.text("run/alerts", f"{record.level}: {text}", step=record.step, time=record.time / 1000)
            event.source_metadata.CopyFrom(self._record_source(record))
            return event
        return None

    def text(self, tag: str, markdown: str, *, step: int = 0, time: float) -> Event:
        """Return an event that shows a text; ``time`` is in seconds since 1970."""
        return self._tensor_event(tag, "text", markdown.encode(), step, time)

    def layout(self, charts: Mapping[str, Iterable[Chart]], *, time: float) -> Event:
        """Return the event that lays out the Custom Scalars tab, with only the first heading expanded.

        Args:
            charts: the charts under each heading.
            time: the wall time, in seconds since 1970.
        """
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata  # type: ignore[import-untyped]

        layout = layout_pb2.Layout()
        for heading, content in charts.items():
            category = layout.category.add(title=heading, closed=bool(layout.category))
            for chart in content:
                # The plugin matches tags as regular expressions, from the beginning.
                tags = [f"^{re.escape(name)}$" for name in chart.names]
                category.chart.add(title=chart.title, multiline={"tag": tags})
        data = layout.SerializeToString(deterministic=True)
        return self._tensor_event(metadata.CONFIG_SUMMARY_TAG, metadata.PLUGIN_NAME, data, 0, time)

    def _scalar(self, name: str, value: float) -> Any:
        scalar = self._value(tag=name, simple_value=value)
        if self._pending_descriptions and (description := self._pending_descriptions.pop(name, None)):
            scalar.metadata.summary_description = description
            scalar.metadata.plugin_data.plugin_name = "scalars"
            # Without the data class, the fast loader creates its own metadata and drops the description.
            scalar.metadata.data_class = self._scalar_class
        return scalar

    def _session_start(self, time_ms: int, step: int) -> Event:
        log = self._session_log(status=self._session_log.START)
        return self._event(wall_time=time_ms / 1000, step=step, session_log=log)

    def _tensor_event(self, tag: str, plugin: str, data: bytes, step: int, time: float) -> Event:
        value = self._value(tag=tag)
        value.metadata.plugin_data.plugin_name = plugin
        # Rank 0: the text plugin shows it as Markdown, not as a column of texts.
        value.tensor.CopyFrom(self._tensor(dtype=self._string, tensor_shape={}, string_val=[data]))
        return self._event(wall_time=time, step=step, summary=self._summary(value=[value]))

    def _record_source(self, record: Record) -> Any:
        return self._source(writer=f"aimnet2mult seq={record.seq}")


def _descriptions(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Return the Markdown description of each metric; it is written with the first value of its tag."""
    texts = {name: with_unit(metric.label, metric.unit) for name, metric in metrics.items()}
    return {name: escape_markdown(text.strip()) for name, text in texts.items() if text}
