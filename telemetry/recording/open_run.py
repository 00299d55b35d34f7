"""Open a run: the one place that knows all the parts and puts them together."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from telemetry.alerts.detector import AnomalyDetector
from telemetry.cadence import Cadence
from telemetry.delivery.supervisor import DeliverySupervisor, ProcessSupervisor, ThreadSupervisor
from telemetry.errors import JournalError, RunAlive, RunExists, RunFolderError, RunNotFound, SettingError
from telemetry.journal.codec import encode
from telemetry.journal.reader import JournalReader, read_header
from telemetry.journal.segments import segments
from telemetry.journal.writer import JournalWriter
from telemetry.metrics import Metric
from telemetry.plugins.registry import Sink, select
from telemetry.recording.bus import MetricBus
from telemetry.recording.redaction import redact
from telemetry.records import SCHEMA, RunRecord, now_ms
from telemetry.run_folder.atomic_write import remove_temporary_files
from telemetry.run_folder.heartbeat import (
    Counts,
    Heartbeat,
    TrainerLivenessProbe,
    heartbeat_path,
    read_heartbeat,
    write_heartbeat,
)
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import sinks_folder
from telemetry.settings import Settings
from telemetry.units import convert_by, factors


def open_run(
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Metric] | None = None,
    name: str | None = None,
    project: str | None = None,
    params: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    sinks: Iterable[str | object] | None = None,
    settings: Settings | None = None,
    resume_step: int | None = None,
) -> MetricBus:
    """Open a run folder for training, start its deliveries, and give the bus.

    Everything is checked before anything is made: sinks, their options and requirements, units, the folder.

    Args:
        path: the run folder; its last part is the run's id.
        metrics: what each metric is, by its full name ``stream/metric``; a value of any other is lost, and reported.
            Without it values of any name are taken as they are, without a unit; a resumed run keeps what it had.
        name: the run's name for people; the run's id by default.
        project: what the run belongs to.
        params: the run's parameters, nested as you like; what looks like a credential is not written.
        versions: of the software used.
        sinks: names of sinks, or sink objects (delivered to from threads of this process); by default those of
            ``settings``.
        settings: how the run is watched.
        resume_step: the iteration after which an existing run goes on; None for a new run.

    Raises:
        SinkNotFound, SinkNotInstalled, PluginError, SettingError, UnitError: see telemetry.errors.
        RunExists: there is a run in the folder, and no ``resume_step``.
        RunNotFound, RunAlive: there is none to resume, or its trainer lives, or another one opens it just now.
        JournalError: the resumed run has other units or another cadence.
        RunFolderError: the folder cannot be written to.
    """
    settings = settings or Settings()
    folder = Path(path)
    if metrics is None and resume_step is not None:
        # What was declared stays so; a run that had nothing to declare goes on as it was.
        metrics = read_header(folder).metrics or None
    chosen = select(settings.sinks if sinks is None else sinks, settings.options)
    factor = factors(metrics or {})
    run = RunRecord(
        seq=0,
        time=0,
        schema=SCHEMA,
        run_id=folder.absolute().name,
        name=name or folder.absolute().name,
        project=project,
        attempt=1,
        every=settings.every,
        started=now_ms(),
        metrics=dict(metrics or {}),
        params=redact(params or {}),
        versions=dict(versions or {}),
        sinks={sink.name: redact(sink.options) for sink in chosen},
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    _check(run)
    newest = _newest(folder)
    if resume_step is not None:
        run = _next_attempt(folder, run)
    elif newest >= 0 and not _is_blank(folder):
        msg = f"there is a run in {folder} already: resume it, or choose another folder"
        raise RunExists(msg)
    workers = _workers(folder, chosen, settings)
    journal = _open_journal(folder, run, resume_step, newest)
    return MetricBus(
        folder,
        journal,
        cadence=Cadence(settings.every),
        factors=factor,
        transforms=[] if metrics is None else [convert_by(factor)],
        watch=AnomalyDetector(run.metrics, settings.watch, start=resume_step or 0),
        workers=workers,
        attempt=run.attempt,
        drain_timeout=settings.drain_timeout,
    )


def _check(run: RunRecord) -> None:
    """Refuse what would be damage to a reader: names that are empty or too long, parameters beyond a line."""
    for name in run.metrics:
        stream, _, metric = name.partition("/")
        if not stream or not metric or metric.endswith("/"):
            msg = f"metric {name!r}: a full name is stream/metric, as in train/loss"
            raise SettingError(msg)
    try:
        msgspec.convert(msgspec.to_builtins(run), RunRecord)
        encode(run)
    except (msgspec.ValidationError, ValueError) as error:
        msg = f"the run cannot be described in a journal: {error}"
        raise SettingError(msg) from error


def _next_attempt(folder: Path, run: RunRecord) -> RunRecord:
    """Fit a run record to the attempts before; see ``open_run`` for what is raised."""
    before = read_header(folder)
    alive = read_heartbeat(folder)
    if alive is not None and TrainerLivenessProbe(folder).wait():
        msg = f"the trainer of {folder} lives ({alive.trainer}); end it before you resume its run"
        raise RunAlive(msg)
    if run.every != before.every:
        msg = f"telemetry.every was {before.every} in {folder} and cannot be {run.every} after a resume"
        raise JournalError(msg)
    for name, metric in run.metrics.items():
        known = before.metrics.get(name, metric)
        if known.unit != metric.unit:
            msg = f"{name} was in {known.unit} in {folder} and cannot be in {metric.unit} after a resume"
            raise JournalError(msg)
    return msgspec.structs.replace(
        run, attempt=before.attempt + 1, run_id=before.run_id, name=before.name, started=before.started
    )


def _is_blank(folder: Path) -> bool:
    """Say whether there is nothing to go on with: at most what a trainer left that was killed before its first line."""
    try:
        read_header(folder)
    except RunNotFound:
        return not JournalReader(folder).read(1, live=False)
    except JournalError:
        return False
    return False


def _newest(folder: Path) -> int:
    return max(segments(folder), default=-1)


def _open_journal(folder: Path, run: RunRecord, resume_step: int | None, newest: int) -> JournalWriter:
    """Begin the attempt, if ``newest`` is the newest segment still."""
    try:
        sinks_folder(folder).mkdir(parents=True, exist_ok=True)
        with _sole_opener(folder):
            # Nor may one that was seen without a line have got one.
            if _newest(folder) != newest or (resume_step is None and not _is_blank(folder)):
                msg = f"another trainer has just opened the run in {folder}; end it, or choose another folder"
                raise RunAlive(msg)
            remove_temporary_files(heartbeat_path(folder))
            # Before the segment: whoever sees the segment must see that its trainer lives.
            write_heartbeat(folder, Heartbeat(trainer=current_process(), attempt=run.attempt, beat=0, counts=Counts()))
            return JournalWriter(folder, run, resumed_step=resume_step)
    except OSError as error:
        msg = f"{folder} cannot be written to ({error.strerror or error}); choose another with --telemetry-dir"
        raise RunFolderError(msg) from error


@contextlib.contextmanager
def _sole_opener(folder: Path) -> Iterator[None]:
    """Keep out whoever opens the same run at the same moment, as a job does that was queued twice."""
    lease = Lease(folder, "opening")
    while not lease.try_acquire():
        time.sleep(0.05)
    try:
        yield
    finally:
        lease.release()


def _workers(folder: Path, sinks: list[Sink], settings: Settings) -> DeliverySupervisor:
    # An object cannot be handed to another process.
    if settings.delivery == "thread" or any(sink.plugin is None for sink in sinks):
        return ThreadSupervisor(folder, sinks, settings)
    return ProcessSupervisor(folder, sinks, settings)
