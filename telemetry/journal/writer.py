"""The journal's writing side: segments, appended to by one writer and never changed.

A segment ``journal-<k>.jsonl`` is made with O_EXCL and starts with the run record. A record counts as durable
when ``write`` and ``fdatasync`` have returned. What is not durable stays in memory and is written again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from telemetry.journal.codec import encode
from telemetry.journal.segments import segment_path, segments
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, Resumed, RunRecord, now_ms


class JournalWriter:
    """Append records to a run's journal.

    ``append`` only queues; ``commit`` makes everything that is queued durable or raises OSError and keeps it. Not
    thread-safe: one thread owns a writer.

    Args:
        folder: the run folder.
        run: the run record that heads each segment; its ``seq`` and ``time`` are set anew for each.
        resumed_step: the iteration after which this attempt goes on, if it resumes.
    """

    def __init__(
        self,
        folder: Path,
        run: RunRecord,
        *,
        resumed_step: int | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._folder = folder
        self._run = run
        self._clock = clock
        self._segment = -1
        self._next = 0
        self._last_seq = 0
        self._fd: int | None = None
        self._pending: list[bytes] = []
        self._written = 0
        self._torn = False
        self._open_segment(resumed_step)

    @property
    def pending(self) -> int:
        """How many records are not durable yet."""
        return len(self._pending)

    @property
    def last_seq(self) -> int:
        """The number of the record that was queued last, 0 before the first."""
        return self._last_seq

    def append(self, make: Callable[[int], AnyRecord]) -> None:
        """Queue the record that ``make`` gives for the next sequence number.

        Raises:
            ValueError: the record is too long for a line; its number is used for the next one.
        """
        seq = self._segment * SEQ_PER_SEGMENT + self._next
        self._pending.append(encode(make(seq)))
        self._next += 1
        self._last_seq = seq

    def commit(self) -> None:
        """Write and sync all that is queued.

        Raises:
            OSError: something is not durable; it stays queued, and the next commit tries again.
        """
        if not self._is_there():
            self.close()
        if self._fd is None:
            self._open_segment()
        if self._written < len(self._pending):
            self._write()
        try:
            os.fdatasync(self._descriptor)
            if not self._is_there():
                msg = f"{segment_path(self._folder, self._segment)} has been removed"
                raise FileNotFoundError(msg)
        except OSError:
            # A second fdatasync may report success without the data being there, so nothing since the last good
            # one can be trusted to this file.
            self.close()
            raise
        self._pending.clear()
        self._written = 0

    def close(self) -> None:
        """Close the file. What is not durable stays queued: a later commit would write it to a new segment."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)

    @property
    def _descriptor(self) -> int:
        assert self._fd is not None  # noqa: S101 - commit opens a segment before it gets here
        return self._fd

    def _open_segment(self, resumed_step: int | None = None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        segment = max([self._segment, *segments(self._folder)]) + 1
        first = segment * SEQ_PER_SEGMENT
        head = encode(msgspec.structs.replace(self._run, seq=first, time=self._clock()))
        if resumed_step is not None:
            # In one write with the run record: an attempt that has begun has also said where.
            resumed = Resumed(seq=first + 1, time=self._clock(), step=resumed_step, attempt=self._run.attempt)
            head += encode(resumed)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        # Parameters may be nobody else's business.
        path = segment_path(self._folder, segment)
        fd = os.open(path, flags, 0o600)
        try:
            _write_all(fd, head)
            os.fdatasync(fd)
            _sync_folder(self._folder)
        except OSError:
            # Without its head it is no segment; each further try would leave another.
            _close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._segment = fd, segment
        self._next = 1 if resumed_step is None else 2
        self._written, self._torn = 0, False

    def _is_there(self) -> bool:
        """Say whether the file that is written to is still the one that readers open."""
        if self._fd is None:
            return False
        try:
            mine = os.fstat(self._fd)
            theirs = os.stat(segment_path(self._folder, self._segment))
        except OSError:
            return False
        return mine.st_nlink > 0 and (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino)

    def _write(self) -> None:
        # What follows a fragment would be glued to it and lost with it.
        lines = [b"\n"] if self._torn else []
        lines += self._pending[self._written :]
        fragments = len(lines) - (len(self._pending) - self._written)
        done = 0
        data = b"".join(lines)
        try:
            while done < len(data):
                done += os.write(self._descriptor, memoryview(data)[done:])
        finally:
            whole = 0
            for line in lines:
                if done < len(line):
                    break
                done -= len(line)
                whole += 1
            if whole or done:
                self._torn = done > 0
            self._written += max(0, whole - fragments)


def _write_all(fd: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:  # the descriptor is gone either way
        return


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError:
        # Some file systems refuse to sync a directory; they write names out with the data.
        return
    finally:
        _close(fd)
