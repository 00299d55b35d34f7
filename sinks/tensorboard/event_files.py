"""The event files of a run in one folder: read back on opening, then appended to in whole batches."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from sinks.tensorboard.events import Event, EventBuilder, EventFileState, run_identity
from sinks.tensorboard.frames import read_frames, to_frames
from telemetry.sink_api import Record, RunRecord, SinkRejected, sync_folder

_TIMESTAMP = re.compile(r"tfevents\.(\d+)")


class EventFiles:
    """The event files of a run in one folder: the events already there, and the file to which this instance appends.

    After a method has raised OSError, the content of the folder is unknown: create a new instance.

    Args:
        folder: the folder of the files, created if missing.
        run: the run to which the events belong.
        builder: the builder of the events in this folder.
        mode: permissions of new files, before the umask.

    Raises:
        SinkRejected: the folder contains event files of another run.
        OSError: the folder cannot be created or read.
    """

    def __init__(self, folder: Path, run: RunRecord, builder: EventBuilder, mode: int = 0o600) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._mode = mode
        self._builder = builder
        self._state = EventFileState(time=run.started / 1000)
        self._path: Path | None = None
        self._newest_timestamp = 0
        self._read_back((run.run_id, run.started))

    @property
    def state(self) -> EventFileState:
        """The content of the files, including all events written so far."""
        return self._state

    def write_records(self, records: Sequence[Record]) -> None:
        """Append and sync the records that are missing from the files.

        Raises:
            SinkRejected: the content of a record is missing or has changed; the records before it have been written.
            OSError: some of the records may be missing.
        """
        last_seq = self._state.last_seq
        events: list[Event] = []
        for record in records:
            try:
                event = self._builder.from_record(record) if record.seq > last_seq else None
            except SinkRejected:
                self._append(events)
                raise
            if event is not None:
                events.append(event)
        self._append(events)

    def write_summaries(self, events: Iterable[Event]) -> None:
        """Append the summaries that differ from the newest ones under the same tags in the files.

        Raises:
            OSError: some of the events may be missing.
        """
        self._append([event for event in events if self._is_changed(event)])

    def _is_changed(self, event: Event) -> bool:
        new = EventFileState()
        new.add(event)
        return any(self._state.summaries.get(tag) != summary for tag, summary in new.summaries.items())

    def _append(self, events: list[Event]) -> None:
        if not events:
            return
        if not self._state.has_session:
            events = [self._builder.first_session(), *events]
        if self._path is None:
            self._path = self._create_file([self._builder.file_header(), *events])
        else:
            # Without O_CREAT: if the file has been removed, fail instead of creating one without a header.
            _write(self._path, _serialized(events), os.O_APPEND, self._mode)
        for event in events:
            self._state.add(event)

    def _create_file(self, events: Iterable[Event]) -> Path:
        # Viewers read the files once, in order of name: newer files need later names even if two hosts' clocks differ.
        timestamp = max(int(time.time()), self._newest_timestamp + 1)
        path = self._folder / f"events.out.tfevents.{timestamp:010d}.{socket.gethostname()}.{os.getpid()}"
        try:
            _write(path, _serialized(events), os.O_CREAT | os.O_EXCL, self._mode)
        except FileExistsError:
            # Another process created this file: do not remove it.
            raise
        except OSError:
            # Otherwise each retry on a full disk would leave a file.
            path.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)
        return path

    def _read_back(self, run: tuple[str, int]) -> None:
        for name in sorted(os.listdir(self._folder)):
            path = self._folder / name
            timestamp = _TIMESTAMP.search(name)
            if timestamp is None or not path.is_file():
                continue
            self._newest_timestamp = max(self._newest_timestamp, int(timestamp[1]))
            frames = read_frames(path)
            found = self._identity(next(frames, b""))
            if found is None:
                continue
            if found != run:
                raise SinkRejected(_other_run_message(path, found, run))
            for frame in frames:
                self._state.add(self._builder.parse(frame))

    def _identity(self, frame: bytes) -> tuple[str, int] | None:
        from google.protobuf.message import DecodeError

        try:
            return run_identity(self._builder.parse(frame))
        except DecodeError:
            return None


def _serialized(events: Iterable[Event]) -> bytes:
    return to_frames([event.SerializeToString() for event in events])


def _write(path: Path, data: bytes, flags: int, mode: int) -> None:
    # Opened for each batch: on NFS, closing a file makes its content visible to other hosts.
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, mode)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, memoryview(data)[done:])
        os.fsync(fd)
    finally:
        os.close(fd)


def _other_run_message(path: Path, found: tuple[str, int], run: tuple[str, int]) -> str:
    other = f"run {found[0]!r}" if found[0] != run[0] else f"an earlier run that was also called {run[0]!r}"
    return (
        f"{path} contains the curves of {other}, which TensorBoard would merge with those of run {run[0]!r}; "
        "set telemetry.tensorboard.dir to another folder, or remove the event files"
    )
