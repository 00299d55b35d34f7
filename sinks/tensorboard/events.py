"""Conversion between records and TensorBoard's ``Event`` messages.

The run's own folder contains all records, each metric under its full name. The folder of a stream contains the points
of that stream under the tags of the overlay, and its media; in the run's own folder, an event without content stands
for each of these.

Each event that represents a record has the record's sequence number in ``source_metadata.writer``. The first event of
each file identifies the run there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sinks._run_tables import escape_markdown
from sinks.tensorboard.media import MediaSummaries, ShownMedia
from telemetry.sink_api import Alert, Metric, Record, Resumed, RunRecord, Scalars, stream_of, with_unit

_RECORD_WRITER = re.compile(r"aimnet2mult seq=(\d+)(?: stream=(.*))?", re.DOTALL)
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
        tags: the tags that have points.
        streams: the last sequence number that concerns each stream: that of its last point or medium, or of a later
            resume. Only meaningful in the run's own folder, where tags begin with the stream.
        plugins: the plugin of each tag that shows media.
        summaries: step and content of the last text, layout or setting under each tag.
    """

    last_seq: int = 0
    step: int = 0
    time: float = 0.0
    has_session: bool = False
    tags: set[str] = field(default_factory=set)
    streams: dict[str, int] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Update the state with the next event."""
        seq = _RECORD_WRITER.fullmatch(event.source_metadata.writer)
        if seq is not None:
            self._add_record(event, int(seq[1]), seq[2])
        elif event.HasField("session_log"):
            self.has_session = True
        else:
            for value in event.summary.value:
                self.summaries[value.tag] = event.step, content(value)

    def _add_record(self, event: Event, seq: int, stream: str | None) -> None:
        is_resume = event.HasField("session_log")
        self.last_seq = max(self.last_seq, seq)
        self.step = event.step - 1 if is_resume else event.step
        self.time = event.wall_time
        if is_resume:
            self.streams = dict.fromkeys(self.streams, seq)
        values = event.summary.value
        # Alerts and media are tensors.
        if values and values[0].HasField("simple_value"):
            self.tags.update(value.tag for value in values)
            stream = stream_of(values[0].tag)
        else:
            self.plugins.update({value.tag: value.metadata.plugin_data.plugin_name for value in values})
        if stream is not None:
            self.streams[stream] = seq


def content(value: Any) -> bytes:
    """Return what a summary holds: a string, or the data in its metadata."""
    data: bytes = value.metadata.plugin_data.content or next(iter(value.tensor.string_val), b"")
    return data


def run_identity(event: Event) -> tuple[str, int] | None:
    """Return the run ID and start (ms since 1970) in the first event of a file; None for files of other programs."""
    match = _FILE_WRITER.fullmatch(event.source_metadata.writer)
    return None if match is None else (match[2], int(match[1]))


class EventBuilder:
    """A builder of one run's events that imports TensorBoard's messages, but neither TensorFlow nor its stub.

    Args:
        run: the run.

    Attributes:
        media: the builder of the summaries of media; None if they are in the folders of streams.
    """

    def __init__(self, run: RunRecord) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2

        self._run = run
        self._event = event_pb2.Event
        self._session_log = event_pb2.SessionLog
        self._source = event_pb2.SourceMetadata
        self._summary = summary_pb2.Summary
        self._value = summary_pb2.Summary.Value
        self._scalar_class = summary_pb2.DATA_CLASS_SCALAR
        self._tensor = tensor_pb2.TensorProto
        self._string, self._float = types_pb2.DT_STRING, types_pb2.DT_FLOAT
        self._pending_descriptions = _descriptions(run.metrics)
        self.media: MediaSummaries | None = None

    def declare(self, metrics: Mapping[str, Metric]) -> None:
        """Add metrics that have first appeared."""
        self._pending_descriptions |= _descriptions(metrics)

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
            event = self._event(wall_time=record.time / 1000, step=record.step)
            # Added in place, because passing messages to a constructor copies them.
            for name, value in record.items():
                scalar = event.summary.value.add()
                scalar.tag, scalar.simple_value = self._tag(name), value
                if name in self._pending_descriptions:
                    self._describe(scalar, self._pending_descriptions.pop(name))
            return self._identified(event, record)
        if isinstance(record, Resumed):
            # Readers drop earlier points at this step and above.
            return self._identified(self._session_start(record.time, record.step + 1), record)
        if isinstance(record, Alert):
            text = f"**{escape_markdown(record.title)}**" + (f": {escape_markdown(record.text)}" if record.text else "")
            event = self.text("run/alerts", f"{record.level}: {text}", step=record.step, time=record.time / 1000)
            return self._identified(event, record)
        return self._from_media(record) if isinstance(record, ShownMedia) else None

    def text(self, tag: str, markdown: str, *, step: int = 0, time: float) -> Event:
        """Return an event that shows a text; ``time`` is in seconds since 1970."""
        return self.tensor(tag, "text", markdown.encode(), step=step, time=time)

    def tensor(self, tag: str, plugin: str, data: bytes, *, step: int = 0, time: float) -> Event:
        """Return an event with a tensor that a plugin of TensorBoard interprets; ``time`` is in seconds since 1970."""
        value = self._value(tag=tag)
        value.metadata.plugin_data.plugin_name = plugin
        # Rank 0: the text plugin shows it as Markdown, not as a column of texts.
        value.tensor.CopyFrom(self._tensor(dtype=self._string, tensor_shape={}, string_val=[data]))
        return self._event(wall_time=time, step=step, summary=self._summary(value=[value]))

    def setting(self, tag: str, plugin: str, data: bytes, *, time: float) -> Event:
        """Return an event whose metadata hold the data, as HParams expects; ``time`` is in seconds since 1970."""
        value = self._value(tag=tag, tensor=self._tensor(dtype=self._float, tensor_shape={"dim": [{"size": 0}]}))
        value.metadata.plugin_data.plugin_name = plugin
        value.metadata.plugin_data.content = data
        return self._event(wall_time=time, summary=self._summary(value=[value]))

    def _from_media(self, record: ShownMedia) -> Event:
        event = self._event(wall_time=record.time / 1000, step=record.step)
        if self.media is None:
            return self._identified(event, record, f" stream={stream_of(record.name)}")
        event.summary.value.append(self.media.value(record))
        return self._identified(event, record)

    def _tag(self, name: str) -> str:
        """Return the tag of a metric."""
        return name

    def _describe(self, scalar: Any, description: str) -> None:
        scalar.metadata.summary_description = description
        scalar.metadata.plugin_data.plugin_name = "scalars"
        # Without the data class, the fast loader creates its own metadata and drops the description.
        scalar.metadata.data_class = self._scalar_class

    def _session_start(self, time_ms: int, step: int) -> Event:
        log = self._session_log(status=self._session_log.START)
        return self._event(wall_time=time_ms / 1000, step=step, session_log=log)

    def _identified(self, event: Event, record: Record, stream: str = "") -> Event:
        event.source_metadata.writer = f"aimnet2mult seq={record.seq}{stream}"
        return event


class StreamEventBuilder(EventBuilder):
    """A builder of the events in the folder of a stream: its points under other tags, its media, and all resumes.

    Args:
        run: the run.
        stream: the stream.
        tags: the tag of each metric, by full name.
        media: the builder of the summaries of media.
    """

    def __init__(self, run: RunRecord, stream: str, tags: Mapping[str, str], media: MediaSummaries) -> None:
        super().__init__(run)
        self.media = media
        self._stream = stream
        self._tags = tags

    def from_record(self, record: Record) -> Event | None:
        """Return the event that represents a record; None for alerts and for the records of other streams."""
        name = record.stream if isinstance(record, Scalars) else record.name if isinstance(record, ShownMedia) else None
        if isinstance(record, Alert) or (name is not None and stream_of(name) != self._stream):
            return None
        return super().from_record(record)

    def _tag(self, name: str) -> str:
        return self._tags[name]


def _descriptions(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Return the Markdown description of each metric; it is written with the first value of its tag."""
    texts = {name: with_unit(metric.label, metric.unit) for name, metric in metrics.items()}
    return {name: escape_markdown(text.strip()) for name, text in texts.items() if text}
