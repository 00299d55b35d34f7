"""Check a request to open a run, and plan the run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from telemetry.errors import JournalError, RunAlive, RunExists, RunNotFound, SettingError
from telemetry.journal.codec import encode
from telemetry.journal.reader import JournalReader, read_header
from telemetry.journal.segments import segments
from telemetry.metrics import Metric
from telemetry.plugins.registry import Sink, select
from telemetry.records import SCHEMA, RunRecord, now_ms
from telemetry.redaction import redact
from telemetry.run_folder.heartbeat import read_heartbeat
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe
from telemetry.settings import Settings
from telemetry.units import factors


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has passed all checks and can be started.

    Attributes:
        folder: the run folder.
        record: the run record, with the number of the attempt.
        sinks: the sinks to deliver to.
        settings: the settings of telemetry.
        factors: conversion factors from the source unit to the unit of each metric, by full name.
        declared: whether metrics were declared; if so, their values are converted and all others are dropped.
        resume_step: the iteration after which an existing run resumes; None for a new run.
        newest_segment: number of the newest journal segment at the time of the checks; -1 if there was none.
    """

    folder: Path
    record: RunRecord
    sinks: list[Sink]
    settings: Settings
    factors: dict[str, float]
    declared: bool
    resume_step: int | None
    newest_segment: int


def plan_run(
    folder: Path,
    *,
    metrics: Mapping[str, Metric] | None = None,
    name: str | None = None,
    project: str | None = None,
    params: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    sinks: Iterable[str | object] | None = None,
    settings: Settings | None = None,
    resume_step: int | None = None,
) -> RunPlan:
    """Check a request without creating anything; arguments and exceptions as for ``open_run``."""
    settings = settings or Settings()
    if metrics is None and resume_step is not None:
        # A resumed run keeps its declarations; if it has none, values of any name are still recorded.
        metrics = read_header(folder).metrics or None
    chosen = select(settings.sinks if sinks is None else sinks, settings.options)
    unit_factors = factors(metrics or {})
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
    _check_record(run)
    newest = newest_segment(folder)
    if resume_step is not None:
        run = _next_attempt(folder, run)
    elif newest >= 0 and not is_blank(folder):
        msg = f"{folder} already contains a run; resume it, or choose another folder"
        raise RunExists(msg)
    return RunPlan(
        folder=folder,
        record=run,
        sinks=chosen,
        settings=settings,
        factors=unit_factors,
        declared=metrics is not None,
        resume_step=resume_step,
        newest_segment=newest,
    )


def _check_record(run: RunRecord) -> None:
    """Reject a run record that readers would treat as damaged: invalid names, or too many parameters for a line."""
    for name in run.metrics:
        stream, _, metric = name.partition("/")
        if not stream or not metric or metric.endswith("/"):
            msg = f"invalid metric name {name!r}; a full name is stream/metric, such as train/loss"
            raise SettingError(msg)
    try:
        msgspec.convert(msgspec.to_builtins(run), RunRecord)
        encode(run)
    except (msgspec.ValidationError, ValueError) as error:
        msg = f"the run record cannot be written: {error}"
        raise SettingError(msg) from error


def _next_attempt(folder: Path, run: RunRecord) -> RunRecord:
    """Return the run record of the attempt that resumes the run in ``folder``; exceptions as for ``open_run``."""
    before = read_header(folder)
    heartbeat = read_heartbeat(folder)
    if heartbeat is not None and TrainerLivenessProbe(folder).wait():
        msg = f"the trainer of {folder} is alive ({heartbeat.trainer}); stop it before resuming its run"
        raise RunAlive(msg)
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


def newest_segment(folder: Path) -> int:
    """Return the number of the newest journal segment; -1 if there is none."""
    return max(segments(folder), default=-1)


def is_blank(folder: Path) -> bool:
    """Return whether the journal has no record to resume from, for example after a kill before the first write."""
    try:
        read_header(folder)
    except RunNotFound:
        return not JournalReader(folder).read(1, live=False)
    except JournalError:
        return False
    return False
