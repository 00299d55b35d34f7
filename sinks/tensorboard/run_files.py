"""All event files of a run: in its own folder, and in one subfolder per stream."""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from sinks.tensorboard import hparams, summaries
from sinks.tensorboard.event_files import EventFiles
from sinks.tensorboard.events import Event, EventBuilder, StreamEventBuilder
from sinks.tensorboard.media import MediaSummaries, ShownMedia
from sinks.tensorboard.overlay_tags import OverlayTags
from telemetry.sink_api import Record, RunRecord, Scalars, SinkRejected, Status, stream_of

_MAX_FOLDER_NAME = 100


class RunFiles:
    """The event files of a run.

    The run's own folder shows each metric under its full name, and has the alerts and tables. TensorBoard draws curves
    on one chart only if they have the same tag in different folders, so the folder of each stream shows the same points
    again under the tags of the overlay, next to the media of the stream. Runs of version 0.1 have no such folders, and
    continue without them.

    Records are written to the folders of the streams first: a record in the run's own folder is present in both.

    Args:
        folder: the run's own folder of event files.
        run: the run.
        run_folder: the run folder, with the contents of media.
        mode: permissions of new files, before the umask.

    Raises:
        SinkRejected: a folder contains event files of another run, or is a link.
        OSError: a folder cannot be created or read.
    """

    def __init__(self, folder: Path, run: RunRecord, run_folder: Path, mode: int) -> None:
        self._folder, self._run, self._run_folder, self._mode = folder, run, run_folder, mode
        self._builder = EventBuilder(run)
        self._own = EventFiles(folder, run, self._builder, mode)
        known = summaries.read_overlay_tags(self._own.state)
        self.has_overlay = known is not None or self._own.state.last_seq == 0
        self._tags = OverlayTags(run.metrics, known or {})
        self._tags.add_undeclared(sorted(self._own.state.tags))
        self._streams: dict[str, EventFiles] = {}
        self._stream_builders: list[EventBuilder] = []
        if not self.has_overlay:
            self._builder.media = MediaSummaries(run_folder)
            self._builder.media.plugins |= self._own.state.plugins | dict.fromkeys(self._own.state.tags, "scalars")
        else:
            # A folder may be ahead of the run's own folder, so a resume may concern more streams than it knows.
            for stream in dict.fromkeys(map(stream_of, self._tags)):
                if self._path(stream).exists():
                    self._stream(stream)

    @property
    def last_seq(self) -> int:
        """The sequence number up to which all records are in all folders to which they belong."""
        last = [self._own.state.last_seq]
        if self.has_overlay:
            for stream, seq in self._own.state.streams.items():
                found = self._stream(stream).state.last_seq
                # Damaged or removed; otherwise, it is at most ahead.
                last += [found] if found < seq else []
        return min(last)

    def write_tables(self) -> None:
        """Write the tables, hyperparameters, tags and layout that have changed.

        Raises:
            OSError: some of them may be missing.
        """
        settings = hparams.start(self._builder, self._run) if hparams.is_described(self._run) else []
        events = [*summaries.tables(self._builder, self._run), *settings]
        self._own.write_summaries([*events, *self._stored_tags(), *self._layout()])

    def describe(self, run: RunRecord) -> None:
        """Apply additions to the description of the run, and write the tables again.

        Raises:
            OSError: some of them may be missing.
        """
        new = {name: metric for name, metric in run.metrics.items() if name not in self._run.metrics}
        self._run = run
        for builder in (self._builder, *self._stream_builders):
            builder.declare(new)
        self._tags.declare(run.metrics)
        self.write_tables()

    def write_records(self, records: Sequence[Record]) -> int:
        """Append and sync the records that are missing, and return the highest durable sequence number.

        Raises:
            OSError: some of the records may be missing.
        """
        durable = max([self.last_seq, *(record.seq for record in records)])
        shown = len(self._own.state.tags)
        if self.has_overlay:
            self._write_to_streams(records)
        self._own.write_records(records)
        if len(self._own.state.tags) > shown:
            self._own.write_summaries(self._layout())
        return durable

    def write_status(self, status: Status) -> None:
        """Write how the run has ended, at its last iteration.

        Raises:
            OSError: it may be missing.
        """
        state = self._own.state
        events = [self._builder.text("run/status", status, step=state.step, time=state.time)]
        if status == "finished" and self._run.params:
            # The others are not final: such a run may be resumed, but TensorBoard keeps the first status.
            events += [*hparams.start(self._builder, self._run), hparams.success(self._builder, state.time)]
        self._own.write_summaries(events)

    def _stored_tags(self) -> list[Event]:
        return [summaries.overlay_tags(self._builder, self._run, self._tags)] if self.has_overlay else []

    def _layout(self) -> list[Event]:
        tags = {name: self._tags[name] if self.has_overlay else name for name in self._own.state.tags}
        return summaries.layout(self._builder, self._run, tags)

    def _write_to_streams(self, records: Sequence[Record]) -> None:
        names = [name for record in records if isinstance(record, Scalars) for name in record.names()]
        media = [stream_of(record.name) for record in records if isinstance(record, ShownMedia)]
        if any((self._tags.add_undeclared(names), self._tags.add_streams(media))):
            # Stored before they are used: after a crash, they must be the same.
            self._own.write_summaries(self._stored_tags())
        for stream in dict.fromkeys([*self._streams, *map(stream_of, names), *media]):
            self._stream(stream).write_records(records)

    def _stream(self, name: str) -> EventFiles:
        if name not in self._streams:
            media = MediaSummaries(self._run_folder)
            builder = StreamEventBuilder(self._run, name, self._tags, media)
            files = EventFiles(self._path(name), self._run, builder, self._mode)
            media.plugins |= files.state.plugins
            self._streams[name] = files
            self._stream_builders.append(builder)
        return self._streams[name]

    def _path(self, stream: str) -> Path:
        path = self._folder / folder_name(stream)
        if path.exists() and not path.is_dir():
            path = self._folder / _hashed(stream)
        if path.is_symlink():
            msg = f"{path} is a link; remove it, because links in place of the folders of streams are not followed"
            raise SinkRejected(msg)
        return path


def folder_name(stream: str) -> str:
    """Return the name of a stream's folder: the stream itself, unless it is unsafe as the name of a folder."""
    name = urllib.parse.quote(stream, safe=" ")
    # TensorBoard takes anything with "tfevents" in its name for an event file.
    is_unsafe = len(name) > _MAX_FOLDER_NAME or name.startswith((".", " ")) or "tfevents" in name
    return _hashed(stream) if is_unsafe else name


def _hashed(stream: str) -> str:
    return f"stream-{hashlib.sha256(stream.encode()).hexdigest()[:16]}"
