"""Open a run for training: check the request, then create, connect and start the components."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from telemetry.alerts.detector import AnomalyDetector
from telemetry.cadence import Cadence
from telemetry.delivery.supervisor import DeliverySupervisor, ProcessSupervisor, ThreadSupervisor
from telemetry.errors import RunAlive, RunExists, RunFolderError
from telemetry.journal.newest_points import last_step, newest_points, streams_at
from telemetry.journal.writer import JournalWriter
from telemetry.logger import log
from telemetry.metrics import Metric
from telemetry.recording.bus import MetricBus
from telemetry.recording.journal_thread import JournalThread
from telemetry.recording.limits import DEFAULT_LIMITS, RecordingLimits
from telemetry.recording.media_recorder import MediaRecorder
from telemetry.recording.record_appender import RecordAppender
from telemetry.recording.record_queue import RecordQueue
from telemetry.recording.run_plan import RunPlan, free_folder, has_run, is_blank, newest_segment, plan_run
from telemetry.redaction import credentials_in
from telemetry.run_folder.atomic_write import remove_temporary_files
from telemetry.run_folder.heartbeat import Counts, Heartbeat, read_heartbeat, write_heartbeat
from telemetry.run_folder.job_identity import current_job
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.paths import heartbeat_path, local_path, shell_path, sinks_folder
from telemetry.run_folder.permissions import closed_to_group, make_folder, make_run_folder
from telemetry.run_folder.process_identity import current_process
from telemetry.settings import Settings

_OPENING_POLL_INTERVAL = 0.05
"""Interval in seconds between attempts to acquire the lease for opening the run."""
_OPENING_SILENT_ATTEMPTS = 20
"""Number of these attempts before a message; a process on a node that has failed holds the lease for a minute."""


def open_run(
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Metric] | None = None,
    name: str | None = None,
    project: str | None = None,
    params: object = None,
    versions: Mapping[str, str] | None = None,
    sinks: str | Iterable[str | object] | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    resume: bool = False,
    resume_step: int | None = None,
) -> MetricBus:
    """Open a run folder for training, start its deliveries, and return the bus.

    If the folder already contains a run, a new one is opened next to it, in ``<path>-2``, ``<path>-3`` …;
    ``bus.folder`` is its folder. With ``resume=True``, that run is continued instead.

    Sinks, their options and requirements, units and the folder are checked before anything is created.

    Args:
        path: the run folder, a local path; its last component is the run ID, and ``~`` is expanded.
        metrics: declarations by full name, ``stream/metric``, or by a pattern, in which ``*`` stands for any
            characters. Any other name is declared when it first appears, without a unit. A resumed run keeps its
            earlier declarations.
        name: the display name, by default the run ID.
        project: the project that the run belongs to.
        params: the parameters of the run, which may be nested: a mapping, a namespace of ``argparse``, a dataclass or
            a similar object. Values that look like credentials are redacted. A resumed run keeps earlier ones that
            are not given again.
        versions: versions of the software used.
        sinks: names of sinks, also as one comma-separated string, or sink objects (served by threads of this process);
            by default those in ``settings``.
        settings: see ``Settings``; also a mapping, see ``Settings.parse``.
        resume: whether to continue the run in the folder, if there is one.
        resume_step: the iteration after which an existing run resumes; by default its last recorded one. Without
            ``resume=True``, the run must exist. A point at this iteration that is already in the journal is not
            recorded again.

    Raises:
        SinkNotFound, SinkNotInstalled, PluginError, SettingError, UnitError: see ``telemetry.errors``.
        RunNotFound: there is no run to resume, and ``resume`` is False.
        RunAlive: the trainer of the run is alive, or another process is opening the run.
        JournalError: units or cadence differ from those of the run to be resumed.
        RunFolderError: the folder cannot be read or written to, or is not a local path.
    """
    request: dict[str, Any] = {
        "metrics": metrics,
        "name": name,
        "project": project,
        "params": params,
        "versions": versions,
        "sinks": sinks,
        "settings": settings,
    }
    return open_or_resume(path, resume=resume, resume_step=resume_step, **request)


def open_or_resume(
    path: str | os.PathLike[str],
    *,
    resume: bool,
    resume_step: int | None,
    skips_repeated: bool = True,
    **request: Any,
) -> MetricBus:
    """Open a run like ``open_run``; unless ``skips_repeated``, points at ``resume_step`` are recorded again."""
    folder = local_path(path).absolute()
    if resume:
        resume_step = _step_to_resume(folder, resume_step)
    for candidate in _candidates(folder) if resume_step is None and not resume else (folder,):
        try:
            plan = plan_run(candidate, resume_step=resume_step, **request)
            return start_run(plan, skips_repeated=skips_repeated)
        except (RunExists, RunAlive):
            # Another process has opened a run in this folder in the meantime.
            if resume_step is not None or resume:
                raise
    raise AssertionError


def _step_to_resume(folder: Path, step: int | None) -> int | None:
    """Return the iteration after which the run in a folder resumes; None if there is no run."""
    if not has_run(folder):
        return None
    return last_step(folder) if step is None else step


def _candidates(folder: Path) -> Iterator[Path]:
    """Yield the folder, unless it contains a run, and then similar ones that do not exist."""
    if not has_run(folder):
        yield folder
    while True:
        other = free_folder(folder)
        log.warning("%s already contains a run; the new one is in %s", folder, other)
        yield other


def start_run(plan: RunPlan, limits: RecordingLimits | None = None, *, skips_repeated: bool = True) -> MetricBus:
    """Start the attempt: create its journal segment, start the journal thread, and return the bus.

    If ``skips_repeated``, points at the iteration of the resume that the journal already has are not recorded again.

    Raises:
        RunAlive, RunFolderError: see ``open_run``.
    """
    limits = limits or DEFAULT_LIMITS
    supervisor = _supervisor(plan, limits)
    step = plan.resume_step
    # A framework whose points are all recorded may evaluate at any step.
    queue = RecordQueue(plan.folder, limits.queue_capacity, step if skips_repeated else None)
    detector = AnomalyDetector(plan.record.metrics, plan.settings.watch, start=step or 0)
    recorded: set[tuple[str, int]] = set()
    if step is not None:
        detector.replay(newest_points(plan.folder, detector.loss_streams, step))
        recorded = {(stream, step) for stream in streams_at(plan.folder, step)} if skips_repeated else set()
    journal = _open_journal(plan)
    credentials = {found for sink in plan.sinks for found in credentials_in(sink.options)}
    appender = RecordAppender(queue.tally, journal, detector, plan.declarations, recorded, credentials=credentials)
    attempt = plan.record.attempt
    thread = JournalThread(plan.folder, queue, journal, appender, supervisor, attempt=attempt, limits=limits)
    try:
        thread.start()
    except BaseException:
        # Nothing will write to this attempt, so this process must not count as its trainer.
        write_heartbeat(plan.folder, _own_heartbeat(attempt, beat=-1))
        raise
    return MetricBus(
        plan.folder,
        thread,
        cadence=Cadence(plan.settings.every, plan.settings.events),
        factors=plan.factors,
        drain_timeout=plan.settings.drain_timeout,
        close_timeout=limits.close_timeout,
        media=MediaRecorder(plan.folder, queue, plan.factors, plan.settings.blobs_mb, limits),
        system_interval=plan.settings.system,
    )


def _open_journal(plan: RunPlan) -> JournalWriter:
    """Begin the attempt, unless another process has begun one since the checks."""
    folder = plan.folder
    try:
        if plan.resume_step is None:
            make_run_folder(folder, plan.settings.mode)
            if plan.settings.mode == "group" and (closed := closed_to_group(folder)):
                message = "the group cannot enter %s, so it cannot read %s; run: chmod g+rx %s"
                log.warning(message, closed, folder, shell_path(closed))
        make_folder(sinks_folder(folder))
        with _exclusive_opening(folder):
            # A segment that had no record at the time of the checks may have one by now.
            if newest_segment(folder) != plan.newest_segment or (plan.resume_step is None and not is_blank(folder)):
                msg = f"another process has just opened the run in {folder}; stop it, or choose another folder"
                raise RunAlive(msg)
            remove_temporary_files(heartbeat_path(folder))
            # Before the segment: any process that sees the segment must find its trainer alive.
            attempt = plan.record.attempt
            before = read_heartbeat(folder)
            write_heartbeat(folder, _own_heartbeat(attempt, beat=0))
            try:
                return JournalWriter(folder, plan.record, resumed_step=plan.resume_step)
            except BaseException:
                _restore_heartbeat(folder, before)
                raise
    except OSError as error:
        msg = f"cannot write to {folder} ({error.strerror or error}); choose another folder"
        raise RunFolderError(msg) from error


def _own_heartbeat(attempt: int, *, beat: int) -> Heartbeat:
    return Heartbeat(trainer=current_process(), attempt=attempt, beat=beat, counts=Counts(), job=current_job())


def _restore_heartbeat(folder: Path, before: Heartbeat | None) -> None:
    """Undo the announcement of an attempt that has not begun; otherwise this process would count as its trainer."""
    with contextlib.suppress(OSError):
        if before is None:
            heartbeat_path(folder).unlink(missing_ok=True)
        else:
            write_heartbeat(folder, before)


@contextlib.contextmanager
def _exclusive_opening(folder: Path) -> Iterator[None]:
    """Exclude other processes that open the same run at the same time, for example because a job was queued twice."""
    lease = Lease(folder, "opening")
    for attempt in itertools.count():
        if lease.try_acquire():
            break
        if attempt == _OPENING_SILENT_ATTEMPTS:
            log.warning("waiting for %s, which is opening the run in %s", lease.holder() or "a process", folder)
        time.sleep(_OPENING_POLL_INTERVAL)
    try:
        yield
    finally:
        lease.release()


def _supervisor(plan: RunPlan, limits: RecordingLimits) -> DeliverySupervisor:
    # A sink object cannot be passed to another process.
    if plan.settings.delivery == "thread" or any(sink.plugin is None for sink in plan.sinks):
        return ThreadSupervisor(plan.folder, plan.sinks, plan.settings, outage_delay=limits.outage_delay)
    return ProcessSupervisor(plan.folder, plan.sinks, plan.settings, outage_delay=limits.outage_delay)
