"""One run of the live page: what has been read of it, and whether it has changed since."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2s
from pathlib import Path

from telemetry.delivery.receipt import sink_receipts
from telemetry.display.grouping import OVERALL, charts
from telemetry.errors import error_text
from telemetry.journal.reader import read_header, read_metrics
from telemetry.metrics import UNDECLARED, VALIDATION, Metric, stream_of
from telemetry.reading.best_value import BestValue, best_of_curve
from telemetry.reading.curve import Curve
from telemetry.reading.run import RunReader
from telemetry.reading.run_summary import summarize
from telemetry.records import SCHEMA, RunRecord
from telemetry.run_folder.run_status import OPEN, run_status
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe
from telemetry.view.folder_state import FolderState, folder_state
from telemetry.view.run_entry import RunEntry, SinkState

BYTES_PER_POINT, BYTES_PER_RECORD = 25, 16


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A reader of some metrics, or of all if no names are declared, and the run that it reads."""

    reader: RunReader
    names: frozenset[str]
    reads_all: bool
    run: tuple[str, int]

    @property
    def lacks_metrics(self) -> bool:
        """Whether metrics have been declared that it does not read, or are the first to be declared."""
        declared = self.reader.metrics
        return (self.reads_all and bool(declared)) or not self.names.issuperset(_table_metrics(declared))


class CachedRun:
    """A run whose files are read only as far as they have changed; safe to use from several threads.

    The attributes never wait for a file, and ``curves`` waits only for metrics that have not been read before.

    Attributes:
        entry: the state of the run when last read, without a label.
        version: grows whenever the entry or a curve has changed.
        memory: approximate size of what is kept, in bytes.
    """

    def __init__(self, folder: Path) -> None:
        """Read the ends of the journal; ``refresh`` reads everything else in the table."""
        self.version = self.memory = 0
        self.entry = _summary(folder)
        self._folder = folder
        self._lock = threading.Lock()
        self._trainer = TrainerLivenessProbe(folder)
        self._requested: frozenset[str] = frozenset()
        self._reading: _Reading | None = None
        self._state: FolderState | None = None
        # Replaced together, so that readers need no lock.
        self._known: tuple[frozenset[str], Mapping[str, Curve]] = (frozenset(), {})

    def refresh(self) -> None:
        """Read what has changed since the last call."""
        with self._lock:
            self._update()

    def curves(self, names: Collection[str]) -> dict[str, Curve]:
        """Return the curves of some metrics by full name, except those without points."""
        if not self._known[0].issuperset(names):
            with self._lock:
                self._requested |= frozenset(names)
                if not self._known[0].issuperset(names):
                    self._reading = self._state = None
                    self._update()
        curves = self._known[1]
        return {name: curves[name] for name in names if name in curves}

    def forget(self) -> int:
        """Free the curves, which are read again when they are requested again; return how many bytes that frees.

        Nothing is freed while the run is being read, and of an open run only curves that are not needed for the table.
        """
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            if self.entry.status in OPEN and not self._requested:
                return 0
            freed, self.memory = self.memory, 0
            self._requested, self._reading, self._known = frozenset(), None, (frozenset(), {})
            return freed
        finally:
            self._lock.release()

    def _update(self) -> None:
        try:
            state = folder_state(self._folder)
            ended = self.entry.status not in OPEN
            if state != self._state or not ended:
                self._discard_outdated_reading(state, ended=ended)
                self._read()
            self._state = state
        except Exception as error:  # noqa: BLE001 - one bad folder must not hide the others
            self._reading = self._state = None
            self._publish(replace(self.entry, error=error_text(error) or type(error).__name__), new=False)

    def _discard_outdated_reading(self, state: FolderState, *, ended: bool) -> None:
        """Start again if the journal has been replaced, or an ended run goes on."""
        if self._reading is None or self._state is None or state.journal == self._state.journal:
            return
        header = read_header(self._folder)
        continues = state.continues(self._state) and _identity(header) == self._reading.run
        if ended or not continues:
            self._reading = None

    def _read(self) -> None:
        is_fresh = self._reading is None
        reading = self._reading or self._start_reading()
        reader = reading.reader
        new = reader.read(live=True)
        if not is_fresh and (reader.rewound or (new and reading.lacks_metrics)):
            # What precedes a resume must be read again to count the valid records.
            self._reading = None
            self._read()
            return
        status = run_status(reader.closed, self._trainer)
        if status not in OPEN:
            # No more records will come, so also read what a live read leaves for later.
            new |= reader.read(live=False)
        entry = self._with_contents(reading) if new or is_fresh else self.entry
        sinks = sink_receipts(self._folder, entry.header.sinks, reader.records.seqs)
        states = tuple(map(SinkState.from_receipt, sinks))
        self._publish(replace(entry, status=status, sinks=states, error=""), new=new and not is_fresh)
        may_continue = status in OPEN or any(sink.is_behind for sink in sinks)
        self._reading = reading if may_continue else None
        self._measure_memory()

    def _start_reading(self) -> _Reading:
        declared = read_metrics(self._folder)
        names = self._requested.union(_table_metrics(declared))
        # Runs of version 0.1 need not declare metrics; their names are only known after all points have been read.
        reader = RunReader(self._folder, names=names if declared else None)
        return _Reading(reader=reader, names=names, reads_all=not declared, run=_identity(read_header(self._folder)))

    def _with_contents(self, reading: _Reading) -> RunEntry:
        """Replace the curves by those read, and return the entry with what has been read."""
        run = reading.reader.run()
        metrics = run.metrics or dict.fromkeys(run.curves, UNDECLARED)
        self._known = reading.names.union(metrics if reading.reads_all else ()), run.curves
        return replace(
            self.entry,
            header=run.header,
            metrics=metrics,
            step=reading.reader.records.step,
            time=reading.reader.time or run.header.started,
            best=_best_values(metrics, run.curves),
            alerts=tuple(run.alerts),
            media=tuple(run.media),
        )

    def _measure_memory(self) -> None:
        points = sum(map(len, self._known[1].values()))
        self.memory = BYTES_PER_POINT * points
        if self._reading is not None:
            # It has its own copy of the points.
            self.memory += BYTES_PER_POINT * points + BYTES_PER_RECORD * len(self._reading.reader.records.seqs)

    def _publish(self, entry: RunEntry, *, new: bool) -> None:
        if new or entry != self.entry:
            self.entry = entry
            self.version += 1


def _summary(folder: Path) -> RunEntry:
    # Identifies the run in the address of the page, also after the page has been started again.
    key = blake2s(str(folder.absolute()).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    nothing = RunRecord(
        seq=0, time=0, schema=SCHEMA, run_id=folder.name, name=folder.name, attempt=1, every=1, started=0
    )
    try:
        found = summarize(folder, None)
    except Exception as error:  # noqa: BLE001 - one bad folder must not hide the others
        return RunEntry(key=key, label="", folder=folder, header=nothing, error=error_text(error))
    return RunEntry(
        key=key,
        label="",
        folder=folder,
        header=found.header,
        metrics=found.header.metrics,
        status=found.status,
        step=found.step,
        time=found.time,
    )


def _identity(header: RunRecord) -> tuple[str, int]:
    return header.run_id, header.started


def _table_metrics(metrics: Mapping[str, Metric]) -> list[str]:
    """Return the full names of the validation metrics that are shown first."""
    return [name for chart in charts(metrics).get(OVERALL, ()) for name in chart.names if stream_of(name) == VALIDATION]


def _best_values(metrics: Mapping[str, Metric], curves: Mapping[str, Curve]) -> dict[str, BestValue]:
    found = {name: best_of_curve(curves[name]) for name in _table_metrics(metrics) if name in curves}
    return {name: best for name, best in found.items() if best is not None}
