"""Check a request to open a run, and plan the run."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from telemetry.errors import JournalError, RunAlive, RunExists, RunNotFound, SettingError
from telemetry.journal.codec import encode
from telemetry.journal.reader import JournalReader, read_description, read_header
from telemetry.journal.segments import segments
from telemetry.logger import log
from telemetry.metrics import Metric
from telemetry.plugins.destinations import unconfirmed
from telemetry.plugins.registry import Sink, select
from telemetry.recording.arguments import check_metrics, parse_resume_step, parse_settings, parse_sinks_argument
from telemetry.recording.declarations import Declarations, without_patterns
from telemetry.recording.params import plain_params
from telemetry.records import SCHEMA, RunRecord, now_ms
from telemetry.redaction import credentials_in, redact, redact_text
from telemetry.run_folder.heartbeat import HEARTBEAT_TIMEOUT, read_heartbeat
from telemetry.run_folder.paths import local_path
from telemetry.run_folder.process_identity import ProcessIdentity, current_process
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe
from telemetry.settings import Settings


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has passed all checks and can be started.

    Attributes:
        folder: the run folder.
        record: the run record, with the number of the attempt.
        sinks: the sinks to deliver to.
        unconfirmed: the sinks left out, with the assignments that would confirm their destinations.
        settings: the settings of telemetry.
        factors: conversion factors from the source unit to the unit of each declared metric, by full name.
        declarations: the declared metrics, and patterns of names that may appear.
        resume_step: the iteration after which an existing run resumes; None for a new run.
        newest_segment: number of the newest journal segment at the time of the checks; -1 if there was none.
    """

    folder: Path
    record: RunRecord
    sinks: list[Sink]
    unconfirmed: dict[str, list[str]]
    settings: Settings
    factors: dict[str, float]
    declarations: Declarations
    resume_step: int | None
    newest_segment: int


def plan_run(
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Metric] | None = None,
    name: str | None = None,
    project: str | None = None,
    params: object = None,
    versions: Mapping[str, str] | None = None,
    sinks: str | Iterable[str | object] | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    resume_step: int | None = None,
    trainer: TrainerLivenessProbe | None = None,
    given: Mapping[str, Collection[str]] | None = None,
) -> RunPlan:
    """Check a request without creating anything; arguments and exceptions as for ``open_run``.

    A caller that has already watched the trainer of the run to resume passes its probe, ``trainer``. ``given`` contains
    the names of the options that the user has given now, by sink; None means all. The others come from the run folder,
    so a sink whose destination is among them and needs confirmation is left out.
    """
    # The script may change its working directory during the run.
    folder = local_path(path).absolute()
    settings = parse_settings(settings)
    resumed = None if resume_step is None else parse_resume_step(resume_step)
    described = None if resumed is None else read_description(folder)
    before = {} if described is None else described.metrics
    if metrics is not None:
        check_metrics(metrics, resumes=resumed is not None)
    chosen = select(settings.sinks if sinks is None else parse_sinks_argument(sinks), settings.options)
    declarations = Declarations(metrics or {}, before)
    run = _first_attempt(
        folder,
        chosen,
        name=name or folder.name,
        project=project,
        params={} if params is None else plain_params(params),
        metrics=before if metrics is None else _unwatched(before, metrics, declarations) | without_patterns(metrics),
        versions=versions or {},
        every=settings.every,
    )
    _check_record(run)
    if described is not None:
        run = _with_earlier_params(run, described)
    newest = newest_segment(folder)
    if resumed is not None:
        run = _next_attempt(folder, run, trainer or TrainerLivenessProbe(folder))
    elif has_run(folder):
        msg = (
            f"{folder} already contains a run; continue it (resume=True), or choose another folder, such as "
            f"{free_folder(folder)}"
        )
        raise RunExists(msg)
    left_out = {} if given is None else _unconfirmed(chosen, settings.options, given, folder)
    return RunPlan(
        folder=folder,
        record=run,
        # The record names those left out, too: `telemetry status` and `sync` show what is pending for them.
        sinks=[sink for sink in chosen if sink.name not in left_out],
        unconfirmed=left_out,
        settings=settings,
        factors={full_name: declarations.factor(full_name) for full_name in run.metrics},
        declarations=declarations,
        resume_step=resumed,
        newest_segment=newest,
    )


def _first_attempt(
    folder: Path,
    sinks: Iterable[Sink],
    *,
    name: str,
    project: str | None,
    params: dict[str, Any],
    metrics: Mapping[str, Metric],
    versions: Mapping[str, str],
    every: int,
) -> RunRecord:
    """Return the run record of a new run, without credentials."""
    options = {sink.name: sink.options for sink in sinks}
    credentials = {found for given in options.values() for found in credentials_in(given)}
    return RunRecord(
        seq=0,
        time=0,
        schema=SCHEMA,
        run_id=folder.name,
        name=redact_text(name, credentials),
        project=project and redact_text(project, credentials),
        attempt=1,
        every=every,
        started=now_ms(),
        metrics={full_name: _without_credentials(metric, credentials) for full_name, metric in metrics.items()},
        params=redact(params, credentials=credentials),
        versions=dict(versions),
        sinks={sink: redact(given, credentials=credentials) for sink, given in options.items()},
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def _unwatched(
    before: Mapping[str, Metric], metrics: Mapping[str, Metric], declarations: Declarations
) -> dict[str, Metric]:
    """Return the earlier declarations; metrics whose declaration is not repeated may have no further values."""
    return {
        name: metric if declarations.matches(name) else msgspec.structs.replace(metric, watch=False, main=False)
        for name, metric in before.items()
        if name not in metrics
    }


def _without_credentials(metric: Metric, credentials: Collection[str]) -> Metric:
    return msgspec.structs.replace(metric, label=redact_text(metric.label, credentials))


def _unconfirmed(
    sinks: Iterable[Sink],
    options: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Collection[str]],
    folder: Path,
) -> dict[str, list[str]]:
    """Return the sinks with unconfirmed destinations, with the assignments that would confirm them."""
    found = {
        sink.name: unconfirmed(sink, options.get(sink.name, {}), given.get(sink.name, ()), folder) for sink in sinks
    }
    return {name: assignments for name, assignments in found.items() if assignments}


def _with_earlier_params(run: RunRecord, before: RunRecord) -> RunRecord:
    """Return a run record with the earlier parameters that are not given again, if they fit into a line."""
    merged = msgspec.structs.replace(run, params=before.params | run.params)
    try:
        encode(merged)
    except ValueError:
        log.warning("the parameters of %s are too long to be kept with those of this attempt", run.run_id)
        return run
    return merged


def _check_record(run: RunRecord) -> None:
    """Reject a run record that readers would treat as damaged."""
    try:
        msgspec.convert(msgspec.to_builtins(run), RunRecord)
        encode(run)
    except (msgspec.ValidationError, ValueError) as error:
        msg = f"the run record cannot be written: {error}"
        raise SettingError(msg) from error


def free_folder(folder: Path) -> Path:
    """Return a similar path that does not exist: with ``-2``, ``-3`` … appended."""
    candidates = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in candidates if not path.exists())


def _next_attempt(folder: Path, run: RunRecord, trainer: TrainerLivenessProbe) -> RunRecord:
    """Return the run record of the attempt that resumes the run in ``folder``; exceptions as for ``open_run``."""
    before = read_description(folder)
    heartbeat = read_heartbeat(folder)
    if heartbeat is not None and trainer.is_alive() is None:
        log.warning(
            "watching the heartbeat of %s for up to %.0f s: its trainer, %s, may be alive",
            folder,
            HEARTBEAT_TIMEOUT,
            heartbeat.trainer,
        )
    if heartbeat is not None and trainer.wait():
        raise run_alive(folder, heartbeat.trainer)
    if run.every != before.every:
        msg = f"telemetry.every was {before.every} in {folder} and cannot be {run.every} after a resume"
        raise JournalError(msg)
    for name, metric in run.metrics.items():
        known = before.metrics.get(name, metric)
        if known.unit != metric.unit:
            msg = f"the unit of {name} was {known.unit} in {folder} and cannot be {metric.unit} after a resume"
            raise JournalError(msg)
    return msgspec.structs.replace(
        run, attempt=before.attempt + 1, run_id=before.run_id, name=before.name, started=before.started
    )


def run_alive(folder: Path, trainer: ProcessIdentity) -> RunAlive:
    """Return the error for a run that cannot be resumed because its trainer is alive."""
    own = trainer == current_process()
    remedy = "close it, bus.close(), before resuming it" if own else "stop it before resuming its run"
    who = "this process, " if own else ""
    other = f"or start a run in another folder, such as {free_folder(folder)}"
    return RunAlive(f"the trainer of {folder} is alive ({who}{trainer}); {remedy}, {other}")


def newest_segment(folder: Path) -> int:
    """Return the number of the newest journal segment; -1 if there is none."""
    return max(segments(folder), default=-1)


def has_run(folder: Path) -> bool:
    """Return whether a folder contains a run that can be resumed."""
    return newest_segment(folder) >= 0 and not is_blank(folder)


def is_blank(folder: Path) -> bool:
    """Return whether the journal has no record to resume from, for example after a kill before the first write."""
    try:
        read_header(folder)
    except RunNotFound:
        return not JournalReader(folder).read(1, live=False)
    except JournalError:
        return False
    return False
