"""Append records to the journal, in segments, each created and extended by one writer and never rewritten.

Segment ``journal-<k>.jsonl`` is created with O_EXCL and begins with the run record. A record is durable when
``write`` and ``fdatasync`` have returned; records that are not durable stay in memory and are written again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from telemetry.journal.codec import encode
from telemetry.journal.segments import segment_path, segments
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, Resumed, RunRecord, RunUpdate, now_ms, updated
from telemetry.run_folder.atomic_write import sync_folder
from telemetry.run_folder.permissions import UMASKS, grant, make_run_folder, mode_of


class JournalWriter:
    """Append records to the journal of a run: ``append`` queues a record, and ``commit`` makes the queue durable.

    Not thread-safe: one thread owns a writer.
    """

    def __init__(
        self,
        folder: Path,
        run: RunRecord,
        *,
        resumed_step: int | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """Create the first segment of an attempt.

        Args:
            folder: the run folder; created if missing.
            run: the run record that begins each segment; ``seq`` and ``time`` are set anew for each one.
            resumed_step: the iteration after which this attempt resumes; None for a new run.
            clock: wall clock in ms since 1970.

        Raises:
            OSError: the segment cannot be created.
        """
        self._folder = folder
        self._run = run
        self._clock = clock
        # Remembered, in case the folder is deleted and has to be created again.
        self._mode = mode_of(folder)
        self._segment = -1
        self._next_index = 0
        self._last_seq = 0
        self._fd: int | None = None
        self._pending: list[bytes] = []
        self._written = 0
        self._ends_in_fragment = False
        self._create_segment(resumed_step)

    @property
    def pending(self) -> int:
        """Number of queued records that are not durable yet."""
        return len(self._pending)

    @property
    def last_seq(self) -> int:
        """Sequence number of the last queued record; 0 before the first."""
        return self._last_seq

    def append(self, make: Callable[[int], AnyRecord]) -> None:
        """Queue the record that ``make`` returns for the next sequence number.

        Raises:
            ValueError: the record is too long for a line; the next record gets its number.
        """
        seq = self._segment * SEQ_PER_SEGMENT + self._next_index
        record = make(seq)
        self._pending.append(encode(record))
        if isinstance(record, RunUpdate):
            # A later segment of this attempt begins with the complete description.
            self._run = updated(self._run, record)
        self._next_index += 1
        self._last_seq = seq

    def commit(self) -> None:
        """Write and sync all queued records.

        Raises:
            OSError: some are not durable; they stay queued, and the next commit tries again.
        """
        if not self._is_current_file():
            self.close()
        if self._fd is None:
            self._create_segment()
        if self._written < len(self._pending):
            self._write_pending()
        try:
            os.fdatasync(self._open_fd)
            if not self._is_current_file():
                msg = f"{segment_path(self._folder, self._segment)} has been removed"
                raise FileNotFoundError(msg)
        except OSError:
            # After a failed fdatasync, a second one may succeed although the data is lost, so everything written to
            # this file since the last success must be written to another one.
            self.close()
            raise
        self._pending.clear()
        self._written = 0

    def close(self) -> None:
        """Close the file. Records that are not durable stay queued; a later commit writes them to a new segment."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)

    @property
    def _open_fd(self) -> int:
        assert self._fd is not None  # noqa: S101 - commit opens a segment before it gets here
        return self._fd

    def _create_segment(self, resumed_step: int | None = None) -> None:
        if not self._folder.is_dir():
            make_run_folder(self._folder, self._mode)
        segment = max([self._segment, *segments(self._folder)]) + 1
        first_seq = segment * SEQ_PER_SEGMENT
        head = encode(msgspec.structs.replace(self._run, seq=first_seq, time=self._clock()))
        if resumed_step is not None:
            # In the same write as the run record, so that no attempt exists without its resumed step.
            attempt = self._run.attempt
            head += encode(Resumed(seq=first_seq + 1, time=self._clock(), step=resumed_step, attempt=attempt))
        path = segment_path(self._folder, segment)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        mode = 0o666 & ~UMASKS[self._mode]
        fd = os.open(path, flags, mode)
        try:
            grant(fd, mode)
            _write_all(fd, head)
            os.fdatasync(fd)
            sync_folder(self._folder)
        except BaseException:
            # A file without its run record is not a valid segment, and each retry would leave another one.
            _close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._segment = fd, segment
        self._next_index = 1 if resumed_step is None else 2
        self._written, self._ends_in_fragment = 0, False

    def _is_current_file(self) -> bool:
        """Return whether the path of the segment still refers to the file that this writer has open."""
        if self._fd is None:
            return False
        try:
            opened = os.fstat(self._fd)
            named = os.stat(segment_path(self._folder, self._segment))
        except OSError:
            return False
        return opened.st_nlink > 0 and (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)

    def _write_pending(self) -> None:
        """Write the pending lines; even after an error, note how many are complete and whether a fragment follows."""
        # Without a separator, the next line would be joined to the fragment and damaged.
        separator = [b"\n"] if self._ends_in_fragment else []
        lines = [*separator, *self._pending[self._written :]]
        written = 0
        data = b"".join(lines)
        try:
            while written < len(data):
                written += os.write(self._open_fd, memoryview(data)[written:])
        finally:
            complete, rest = _count_complete(lines, written)
            if written:
                self._ends_in_fragment = rest > 0
            self._written += max(0, complete - len(separator))


def _count_complete(lines: list[bytes], written: int) -> tuple[int, int]:
    """Return how many of the lines are complete after ``written`` bytes, and the number of bytes after them."""
    complete = 0
    for line in lines:
        if written < len(line):
            break
        written -= len(line)
        complete += 1
    return complete, written


def _write_all(fd: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:  # the descriptor is closed either way
        return
