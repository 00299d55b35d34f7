"""Fakes for the tests of telemetry: backends and disks that fail on request, a clock, hand-made runs."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from telemetry import Metric, Status, testing
from telemetry.journal.writer import JournalWriter
from telemetry.plugins.registry import Plugin, Sink
from telemetry.records import Closed, RunRecord, Scalars
from telemetry.run_folder.heartbeat import Counts, Heartbeat, write_heartbeat
from telemetry.run_folder.process_identity import ProcessIdentity, current_process
from telemetry.sink_api import Opened, Record, SinkRejected, SinkUnavailable, hookimpl

METRICS = {f"{stream}/{name}": Metric() for stream in ("train", "train_window", "val") for name in ("loss", "lr")}


def eventually(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Poll until ``condition`` returns a true value and return it; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {condition}"
        time.sleep(0.02)
    return value


class FakeClock:
    """A monotonic clock that advances only in ``sleep``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@dataclass
class Backend:
    """An in-memory backend, which outlives the sinks that write to it.

    Attributes:
        destination: destination reported by ``sink_open``.
        reports_last_seq: whether ``sink_open`` reports the last record held.
        buffers: whether records are buffered until the run is closed.
        bad: sequence numbers of records that are rejected.
        down: exception raised by ``sink_open`` and ``sink_write``.
        refuses: exception raised by ``sink_open``.
        close_fails: exception raised by ``sink_close``.
        faults: faults in the next calls of ``sink_write``, one each: an exception to raise or a function to call first.
        fails_after: exceptions to raise in the next calls of ``sink_write`` after the records are held.
        durable_excess: amount added to the sequence number that ``sink_write`` returns.
        held, buffer, runs, closed, ends, calls, sinks: what the backend has received so far.
    """

    destination: str = "memory"
    reports_last_seq: bool = True
    buffers: bool = False
    bad: frozenset[int] = frozenset()
    down: Exception | None = None
    refuses: Exception | None = None
    close_fails: Exception | None = None
    faults: list[BaseException | Callable[[], None] | None] = field(default_factory=list)
    fails_after: list[BaseException | None] = field(default_factory=list)
    durable_excess: int = 0
    held: list[Record] = field(default_factory=list)
    buffer: list[Record] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    closed: list[Status] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    sinks: list[object] = field(default_factory=list)

    def seqs(self) -> list[int]:
        """Return the sequence numbers of the records held, in order of arrival."""
        return [record.seq for record in self.held]

    def steps(self) -> list[int]:
        """Return the iterations of the scalars held, in order of arrival."""
        return [record.step for record in self.held if isinstance(record, Scalars)]

    def crash(self) -> None:
        """Lose the buffered records, as a killed client would."""
        self.buffer.clear()


class MemorySink:
    """A sink that writes to a ``Backend``."""

    def __init__(self, backend: Backend, name: str = "memory") -> None:
        self.name = name
        self.backend = backend
        backend.sinks.append(self)

    @hookimpl
    def sink_open(self, run: RunRecord) -> Opened:
        backend = self.backend
        if backend.refuses is not None:
            raise backend.refuses
        if backend.down is not None:
            raise backend.down
        backend.runs.append(run)
        last = max(backend.seqs(), default=0) if backend.reports_last_seq else None
        return Opened(backend.destination, last)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int | None:
        backend = self.backend
        backend.calls.append(len(records))
        fault = backend.faults.pop(0) if backend.faults else None
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            fault()
        if backend.down is not None:
            raise backend.down
        bad = [record.seq for record in records if record.seq in backend.bad]
        if bad:
            msg = f"record {bad[0]} is invalid"
            raise SinkRejected(msg)
        if backend.buffers:
            backend.buffer += records
            return None
        backend.held += records
        if backend.fails_after and (error := backend.fails_after.pop(0)) is not None:
            raise error
        return records[-1].seq + backend.durable_excess

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        backend = self.backend
        if backend.close_fails is not None:
            raise backend.close_fails
        backend.held += backend.buffer
        backend.buffer.clear()
        backend.closed.append(status)
        backend.ends.append((time, reason))


def sink_for(backend: Backend, name: str = "memory") -> Sink:
    """Return a sink as ``select`` does; each instance writes to ``backend``."""

    class Bound(MemorySink):
        def __init__(self) -> None:
            super().__init__(backend, name)

    return Sink(name, {}, Plugin(name, Bound, "fakes 1.0"))


class FileSink:
    """A sink for real processes, whose backend is a folder.

    The file ``rows`` holds one line per record: sequence number, iteration and stream. While one of the files ``down``,
    ``slow``, ``hang`` or ``crash`` exists in the folder, the sink misbehaves accordingly.
    """

    destinations: ClassVar[dict[str, Any]] = {}

    @dataclass
    class Options:
        backend: str
        reports_last_seq: bool = True
        level: int = 0
        password: str = ""
        server: str = ""

    def __init__(self, options: Options) -> None:
        self._folder = Path(options.backend)
        self._reports_last_seq = options.reports_last_seq

    @hookimpl
    def sink_open(self, run: RunRecord) -> Opened:
        self._folder.mkdir(exist_ok=True)
        self._add("opened", f"{os.getpid()} {run.attempt} {os.sched_getscheduler(0)}")
        self._misbehave()
        return Opened(str(self._folder), max(row_seqs(self._folder), default=0) if self._reports_last_seq else None)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        self._misbehave()
        for record in records:
            self._add("rows", f"{record.seq} {getattr(record, 'step', -1)} {getattr(record, 'stream', '')}")
        return records[-1].seq

    @hookimpl
    def sink_close(self, status: Status) -> None:
        self._misbehave()
        self._add("closed", status)

    def _add(self, name: str, line: str) -> None:
        # A single write: a killed process leaves a complete line or none.
        fd = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)

    def _misbehave(self) -> None:
        if (self._folder / "down").exists():
            msg = "the backend is down"
            raise SinkUnavailable(msg)
        if (self._folder / "crash").exists():
            os._exit(139)
        if (self._folder / "slow").exists():
            self._add("waits", str(os.getpid()))
            eventually(lambda: not (self._folder / "slow").exists())
        if (self._folder / "hang").exists():
            self._add("hung", str(os.getpid()))
            threading.Event().wait()


class TalkativeSink(FileSink):
    """A sink that logs in, and whose errors, destination and view contain its credentials."""

    def __init__(self, options: FileSink.Options) -> None:
        super().__init__(options)
        self._login = f"{options.password} at {options.server}"

    @hookimpl
    def sink_open(self, run: RunRecord) -> Opened:
        opened = super().sink_open(run)
        self._add("logins", self._login)
        return Opened(f"{opened.destination}, {self._login}", opened.last_seq, f"open {self._login}")

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        if not (self._folder / "failed").exists():
            self._add("failed", "once")
            msg = f"no answer to {self._login}"
            raise SinkUnavailable(msg)
        return super().sink_write(records)


class LackingSink(MemorySink):
    """A sink that requires a module that does not exist."""

    requires = ("no_such_module",)

    def __init__(self) -> None:
        super().__init__(Backend())


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file; none if it does not exist."""
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def row_seqs(backend: Path) -> list[int]:
    """Return the sequence numbers of the records accepted by a ``FileSink``, in order."""
    return [int(line.split()[0]) for line in lines_of(backend / "rows")]


def row_steps(backend: Path) -> list[int]:
    """Return the iterations of the records accepted by a ``FileSink``, in order."""
    return [int(line.split()[1]) for line in lines_of(backend / "rows")]


def offer_sinks(folder: Path, **sinks: str) -> None:
    """Create a distribution that provides sinks, given as ``name="module:Class"``; add ``folder`` to the path."""
    info = folder / "fakes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakes\nVersion: 1.0\n")
    points = "".join(f"{name} = {value}\n" for name, value in sinks.items())
    (info / "entry_points.txt").write_text(f"[telemetry.sinks]\n{points}")


class FaultyDisk:
    """A replacement of ``os`` in ``telemetry.journal`` that fails on request."""

    def __init__(self) -> None:
        self.write_error: OSError | None = None
        self.sync_error: OSError | None = None
        self.hangs: threading.Event | None = None
        self.hung = threading.Event()
        self.writes: list[bytes] = []
        self.syncs = self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.tries += 1
        if self.write_error is not None:
            raise self.write_error
        self.writes.append(bytes(data))
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        if self.hangs is not None:
            self.hung.set()
            self.hangs.wait()
        if self.sync_error is not None:
            raise self.sync_error
        os.fdatasync(fd)
        self.syncs += 1


def journal_lines(folder: Path) -> list[dict[str, Any]]:
    """Read all segments without using telemetry: each complete line, with its checksum verified."""
    out = []
    for path in sorted(folder.glob("journal-*.jsonl"), key=lambda p: int(p.stem.partition("-")[2])):
        for line in path.read_bytes().split(b"\n")[:-1]:
            body, _, crc = line.rpartition(b',"crc":"')
            assert crc == b'%08x"}' % zlib.crc32(body), line
            out.append(json.loads(line))
    return out


def journal_steps(folder: Path, stream: str = "train") -> list[int]:
    """Return the iterations of the records of a stream, in journal order."""
    return [line["step"] for line in journal_lines(folder) if line["kind"] == "scalars" and line["stream"] == stream]


DEAD = msgspec.structs.replace(current_process(), started="1")
"""A process of this machine that has ended; its ID belongs to another process."""
FOREIGN = ProcessIdentity(host="elsewhere", pid=4711, started="12345", kernel="another-boot/1")
"""A process on another machine."""


def beat(folder: Path, trainer: ProcessIdentity, *, beat: int = 1, attempt: int = 1) -> None:
    """Write the heartbeat of a trainer; -1 is the last one."""
    write_heartbeat(folder, Heartbeat(trainer=trainer, attempt=attempt, beat=beat, counts=Counts()))


def run_record(folder: Path, attempt: int = 1) -> RunRecord:
    """Return the run record of an attempt."""
    given = {"name": "a run", "attempt": attempt, "every": 1, "started": 0, "time": 0}
    return testing.run_record(folder.name, metrics=METRICS, params={}, **given)


class HandMadeRun:
    """A run folder written step by step, with a trainer that is alive, dead or on another machine."""

    def __init__(
        self,
        folder: Path,
        trainer: ProcessIdentity | None = None,
        sinks: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.sinks = {name: dict(options) for name, options in (sinks or {}).items()}
        self.attempt = 0
        self.trainer = trainer or current_process()
        self.begin()

    def begin(self, resume_step: int | None = None) -> None:
        """Start an attempt in a new segment."""
        self.attempt += 1
        (self.folder / "sinks").mkdir(parents=True, exist_ok=True)
        beat(self.folder, self.trainer, attempt=self.attempt)
        record = msgspec.structs.replace(run_record(self.folder, self.attempt), sinks=self.sinks)
        self.journal = JournalWriter(self.folder, record, resumed_step=resume_step)

    def points(self, *steps: int, stream: str = "train") -> list[int]:
        """Write a record for each iteration and return their sequence numbers."""
        seqs: list[int] = []
        for step in steps:
            self.journal.append(partial(self._point, step=step, stream=stream, seqs=seqs))
        self.journal.commit()
        return seqs

    def _point(self, seq: int, step: int, stream: str, seqs: list[int]) -> Scalars:
        seqs.append(seq)
        return Scalars(seq=seq, time=step, stream=stream, step=step, values={"loss": float(step)})

    def close(self, status: Status = "finished") -> None:
        """Close the attempt."""
        self.journal.append(lambda seq: Closed(seq=seq, time=0, status=status))
        self.journal.commit()
        beat(self.folder, self.trainer, beat=-1, attempt=self.attempt)

    def die(self) -> None:
        """End the attempt without closing it."""
        self.trainer = DEAD
        beat(self.folder, DEAD, attempt=self.attempt)


def remove(folder: Path) -> None:
    """Remove a folder that is being written to, atomically for the writer."""
    aside = folder.with_name(folder.name + ".removed")
    folder.rename(aside)
    shutil.rmtree(aside)
