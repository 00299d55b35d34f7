"""Encode and write media in a thread, and pass their records to the journal."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from telemetry.backoff import Backoff
from telemetry.delivery.deadline import Deadline
from telemetry.errors import format_error
from telemetry.recording.blob_store import BlobsFull, BlobStore
from telemetry.recording.drop_reasons import DropReason
from telemetry.recording.journal_thread import avoid_preemption
from telemetry.recording.limits import RecordingLimits
from telemetry.recording.media_content import Encoded, size_of, snapshot
from telemetry.recording.point_values import name_problem, redact_name
from telemetry.recording.record_queue import RecordQueue
from telemetry.recording.steps import parse_step
from telemetry.recording.warn_once import WarnOnce
from telemetry.records import AnyMedia, Histogram, now_ms
from telemetry.run_folder.blobs import blobs_folder

_POLL_INTERVAL = 0.1
"""Interval in seconds at which ``finish`` looks at its deadline, which a signal handler may bring forward."""


class _Offered(NamedTuple):
    name: str
    step: int
    time: int
    content: Any
    encode: Callable[[Any], Encoded]
    size: int


class MediaRecorder:
    """A bounded queue of contents, and the thread that writes them, started by the first one.

    Any thread may call the methods, also in a signal handler. The records of a name keep their order. A kill between
    the blob and its record leaves a file that nothing refers to, and that the next attempt counts and reuses.

    Args:
        folder: the run folder.
        queue: the queue to the journal; its tally counts what is offered and lost here.
        factors: conversion factors of the declared metrics by full name.
        megabytes: maximum size of all blobs of the run (``telemetry.blobs_mb``).
        limits: capacity and waiting times.
    """

    def __init__(
        self,
        folder: Path,
        queue: RecordQueue,
        factors: Mapping[str, float],
        megabytes: int,
        limits: RecordingLimits,
    ) -> None:
        self._folder = folder
        self._queue = queue
        self._factors = factors
        self._limits = limits
        self._store = BlobStore(folder, megabytes)
        self._changed = threading.Condition(threading.RLock())
        self._items: deque[_Offered] = deque()
        self._offered = self._done = self._bytes = 0
        self._finishing = False
        self._thread: threading.Thread | None = None
        self._warn_once = WarnOnce()

    def offer(self, name: object, step: object, content: Any, encode: Callable[[Any], Encoded]) -> None:
        """Enqueue a content, or a callable that returns it; ``encode`` encodes it in the thread of this object."""
        self._queue.tally.offer(1)
        if problem := _full_name_problem(name):
            self._lose(name, step, "invalid name", problem)
            return
        try:
            number = parse_step(step)
        except ValueError as error:
            self._lose(name, step, "invalid step", str(error))
            return
        try:
            kept = snapshot(content)
            item = _Offered(redact_name(str(name)), number, now_ms(), kept, encode, size_of(kept))
        except Exception as error:  # noqa: BLE001 - the content comes from the caller
            self._lose(name, step, "invalid content", format_error(error))
            return
        self._enqueue(item)

    def flush(self, timeout: float) -> bool:
        """Wait until the records of everything offered so far are in the queue; return False after ``timeout``."""
        with self._changed:
            goal = self._offered
            return self._changed.wait_for(lambda: self._done >= goal, timeout)

    def finish(self, deadline: Deadline) -> None:
        """Accept nothing more, and wait for what was offered; what is still waiting at the deadline is lost."""
        limit = Deadline(self._limits.media_timeout)
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
            while self._done < self._offered and (left := min(limit.remaining(), deadline.remaining())):
                self._changed.wait(min(left, _POLL_INTERVAL))
            for item in self._items:
                self._lose(item.name, item.step, "run closed", "the run was closed before it was written")
            self._done += len(self._items)
            self._items.clear()

    def _enqueue(self, item: _Offered) -> None:
        with self._changed:
            if self._finishing:
                self._lose(item.name, item.step, "run closed", f"the run in {self._folder} is closed")
            elif self._is_full(item):
                self._lose(item.name, item.step, "queue full", "too many contents are waiting for the disk")
            elif (thread := self._thread or _started(self._run)) is None:
                self._lose(item.name, item.step, "not written", "the system allows no further thread")
            else:
                self._thread = thread
                self._items.append(item)
                self._offered += 1
                self._bytes += item.size
                self._changed.notify_all()

    def _is_full(self, item: _Offered) -> bool:
        is_over = self._bytes + item.size > self._limits.media_bytes and self._offered > self._done
        return is_over or len(self._items) >= self._limits.media_capacity

    def _run(self) -> None:
        avoid_preemption()
        while (item := self._next()) is not None:
            try:
                self._record(item)
            except BlobsFull as error:
                self._lose(item.name, item.step, "too many blobs", str(error))
            except OSError as error:
                self._lose(item.name, item.step, "not written", format_error(error))
            except BaseException as error:  # noqa: BLE001 - user code, which must not end this thread
                self._lose(item.name, item.step, "invalid content", format_error(error))
            with self._changed:
                self._done += 1
                self._bytes -= item.size
                self._changed.notify_all()

    def _next(self) -> _Offered | None:
        """Wait for a content and dequeue it; None once the run is closed and there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finishing)
            return self._items.popleft() if self._items else None

    def _record(self, item: _Offered) -> None:
        encoded = _encode(item)
        fields = encoded.fields
        if encoded.content is not None:
            fields = fields | {"blob": self._stored(encoded.content, encoded.suffix)}
        if encoded.record is Histogram and item.name in self._factors:
            fields = fields | {"edges": [edge * self._factors[item.name] for edge in fields["edges"]]}
        if encoded.left_out:
            self._queue.tally.drop("not a number", encoded.left_out)
            text = f"{item.name} at iteration {item.step} leaves out {encoded.left_out} values that are not finite"
            self._warn_once(f"not finite {item.name}", text)
        record = encoded.record(seq=0, time=item.time, name=item.name, step=item.step, **fields)
        checked: AnyMedia = msgspec.convert(msgspec.to_builtins(record), encoded.record)
        self._queue.put_record(item.name, item.step, checked, offered=True)

    def _stored(self, content: bytes | Path, suffix: str) -> Any:
        """Return the blob of a content, once it is durable; retry until the run is closed."""
        backoff = Backoff(self._limits.disk_backoff_initial, self._limits.disk_backoff_max)
        while True:
            last = self._finishing
            try:
                blob = self._store.add(content, suffix)
            except OSError as error:
                text = f"cannot write to {blobs_folder(self._folder)} ({error.strerror or error}); retrying"
                self._warn_once("disk", text)
                if last:
                    raise
                with self._changed:
                    self._changed.wait_for(lambda: self._finishing, backoff.next_delay())
            else:
                self._warn_once.clear("disk")
                return blob

    def _lose(self, name: object, step: object, reason: DropReason, text: str) -> None:
        self._queue.tally.lose(1, reason)
        self._warn_once(f"{reason} {name}", f"dropping {str(name)[:50]} at iteration {step}: {text}")


def _started(run: Callable[[], None]) -> threading.Thread | None:
    """Return a new thread; None if the number of threads is limited (``ulimit -u``)."""
    thread = threading.Thread(target=run, name="telemetry-media", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def _encode(item: _Offered) -> Encoded:
    """Return the encoded content; an OSError of the caller's code is not one of the disk of the run.

    Raises:
        ValueError: the content cannot be read.
        Exception: the content is invalid.
    """
    try:
        return item.encode(item.content() if callable(item.content) else item.content)
    except OSError as error:
        raise ValueError(format_error(error)) from error


def _full_name_problem(name: object) -> str:
    if problem := name_problem(name):
        return problem
    stream, slash, rest = str(name).partition("/")
    return "" if stream and slash and rest else f"the name {name!r} has no stream; a full name is stream/name"
