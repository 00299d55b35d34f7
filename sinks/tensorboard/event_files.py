"""The event files of one run in a folder: read back, and written to in whole batches.

A file is a sequence of frames (TFRecord): the length of the data and its checksum, the data and its checksum.
tensorboard's writer makes them. They are read here, as its reader opens the file again for each part of a frame, which
on a network disk takes minutes.
"""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sinks.tensorboard.events import Event, Events, Held, owner
from telemetry.sink_api import Record, RunRecord, SinkRejected

_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_STAMP = re.compile(r"tfevents\.(\d+)")


class EventFiles:
    """What a folder holds of a run, and the file that this object adds to it.

    An object whose method has raised an error of the file system does not know any more what the folder holds:
    make another.

    Args:
        folder: is made if it is not there.
        run: the run; a folder that holds events of another run is refused.

    Raises:
        SinkRejected: the folder has event files of another run.
        OSError: the folder cannot be made, or not read.
    """

    def __init__(self, folder: Path, run: RunRecord) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._events = Events(run)
        self._held = Held(time=run.started / 1000)
        self._path: Path | None = None
        self._stamp = 0
        self._read_back((run.run_id, run.started))

    @property
    def held(self) -> Held:
        """What is there now."""
        return self._held

    @property
    def events(self) -> Events:
        """Makes the events of this run."""
        return self._events

    def write_records(self, records: Sequence[Record]) -> int:
        """Append what is not there yet of the records, and sync it; give the highest number that is safe then.

        Raises:
            OSError: some of them may not be there.
        """
        last = self._held.last_seq
        made = (self._events.record(record) for record in records if record.seq > last)
        self._append([event for event in made if event is not None])
        return max([last, *(record.seq for record in records)])

    def write_notes(self, events: Iterable[Event]) -> None:
        """Append those texts and layouts that are not what was written last under their tag.

        Raises:
            OSError: some of them may not be there.
        """
        self._append([event for event in events if self._is_new(event)])

    def _is_new(self, event: Event) -> bool:
        seen = Held()
        seen.add(event)
        return any(self._held.notes.get(tag) != note for tag, note in seen.notes.items())

    def _append(self, events: list[Event]) -> None:
        if not events:
            return
        if not self._held.session:
            events = [self._events.session(), *events]
        if self._path is None:
            self._path = self._create([self._events.head(), *events])
        else:
            # Without O_CREAT: a file that somebody has removed is an error, and not a new one without a head.
            _write(self._path, _frames(events), os.O_APPEND)
        for event in events:
            self._held.add(event)

    def _create(self, events: Iterable[Event]) -> Path:
        # Readers go through the files by name and do not come back, whatever the clocks of two hosts say.
        stamp = max(int(time.time()), self._stamp + 1)
        path = self._folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        try:
            _write(path, _frames(events), os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise
        except OSError:
            # On a full disk each try would leave a file.
            path.unlink(missing_ok=True)
            raise
        _sync_folder(self._folder)
        return path

    def _read_back(self, run: tuple[str, int]) -> None:
        for name in sorted(os.listdir(self._folder)):
            path = self._folder / name
            stamp = _STAMP.search(name)
            if stamp is None or not path.is_file():
                continue
            self._stamp = max(self._stamp, int(stamp[1]))
            frames = read_frames(path)
            found = self._owner(next(frames, b""))
            if found is None:
                continue
            if found != run:
                raise SinkRejected(_refusal(path, found, run))
            for frame in frames:
                self._held.add(self._events.parse(frame))

    def _owner(self, frame: bytes) -> tuple[str, int] | None:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            return owner(self._events.parse(frame))
        except DecodeError:
            return None


def read_frames(path: Path) -> Iterator[bytes]:
    """Give the data of each frame, up to the end or to the first that is not whole: no reader goes on behind it.

    Raises:
        OSError: the file cannot be read.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # type: ignore[import-untyped]

    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, crc = _HEAD.unpack(head)
            left -= _HEAD.size + length + _FOOT.size
            if left < 0 or crc != masked_crc32c(head[:8]):
                return
            data, foot = file.read(length), file.read(_FOOT.size)
            if foot != _FOOT.pack(masked_crc32c(data)):
                return
            yield data


def _frames(events: Iterable[Event]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _write(path: Path, data: bytes, flags: int) -> None:
    # Opened for each batch: closing is what lets NFS show it to other hosts. Its texts are the run's parameters.
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, memoryview(data)[done:])
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError:
        # Some file systems refuse to sync a directory; they write names out with the data.
        return
    finally:
        os.close(fd)


def _refusal(path: Path, found: tuple[str, int], run: tuple[str, int]) -> str:
    whose = f"of run {found[0]!r}" if found[0] != run[0] else f"of an earlier run that was also called {run[0]!r}"
    return (
        f"{path} has the curves {whose}, and those of run {run[0]!r} would be drawn into them; "
        "give telemetry.tensorboard.dir another folder, or remove its event files"
    )
