"""Plan a training run: check the request, and find or create the run folder, before torch is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimnet2mult.config import resume_rules, trust
from aimnet2mult.config.merge import merge_layers
from aimnet2mult.config.schema import Config, load
from aimnet2mult.config.user_path import expand_user
from aimnet2mult.errors import ConfigError, Problems
from aimnet2mult.metrics.declarations import declare
from aimnet2mult.metrics.statistics import MetricInfo
from aimnet2mult.models.checkpoint_folder import FOLDER as CHECKPOINTS
from aimnet2mult.models.checkpoint_folder import find_damaged, find_newest
from aimnet2mult.models.definition import DEFAULT, read_definition
from aimnet2mult.models.loaded_definition import find_definition
from aimnet2mult.train.auto_resume import AutoResume, find_own_runs
from aimnet2mult.train.checkpoint_peek import read_progress
from aimnet2mult.train.completion import check_epochs, describe_completion
from aimnet2mult.train.data_record import find_streams
from aimnet2mult.train.new_folders import create_folders
from aimnet2mult.train.save_target import check_writable
from aimnet2mult.train.trainer_wait import TrainerWait
from telemetry import Metric, RunNotFound, Settings, Status, read_header, read_receipt
from telemetry.run_folder.job_identity import current_job
from telemetry.terminal import print_lines

if TYPE_CHECKING:
    from aimnet2mult.data.report import Report

__all__ = ["Plan", "Request", "echo", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of ``aimnet2mult train``."""

    configs: Sequence[Path] = ()
    """YAML files of settings; later ones take precedence."""
    overrides: Sequence[str] = ()
    """``key=value`` with dotted keys; they take precedence over the files."""
    model: Path | None = None
    """YAML file of the model."""
    save: Path | None = None
    """Where to write the final weights."""
    resume: str | None = None
    """Folder or name of the run to resume, or ``auto``."""
    allow_packages: Sequence[str] = ()
    """Packages whose classes and functions settings may name, besides those that are always trusted."""
    verbose: bool = False
    """Whether to print the settings, the model and its parameters."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request, checked as far as possible without torch."""

    config: Config
    settings: Settings
    definition: dict[str, Any]
    model_file: Path
    """Where the definition comes from."""
    folder: Path
    save: Path | None
    checkpoint: Path | None = None
    resume_step: int | None = None
    """The iteration after which an existing run continues; None for a new run."""
    report: Report | None = None
    """Result of checking the data; None before."""
    given_options: Mapping[str, Collection[str]] | None = None
    """The names of the options of sinks in the request, by sink; None: all, because the run is new."""
    status_before: Status | None = None
    """How the run to resume ended; None if its journal does not record it."""
    nothing_left: str = ""
    """Why an existing run is complete; empty if there is something to train."""
    notices: tuple[str, ...] = ()
    """Lines to print before the run is resumed."""
    new_folders: tuple[Path, ...] = ()
    """The folders created for a new run, innermost first."""
    verbose: bool = False

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Declarations of the metrics that will be published."""
        config = self.config
        declared = declare(
            config.labels,
            config.fidelity_names,
            config.units,
            config.loss.components,
            streams=find_streams(config, self.folder),
            lr_groups=config.lr_groups,
            weighted=config.loss.components if config.loss.changes_weights else (),
        )
        earlier = {} if self.resume_step is None else _declared_metrics(self.folder)
        return {name: _declaration(info, earlier.get(name)) for name, info in declared.items()}


def _declaration(info: MetricInfo, earlier: Metric | None) -> Metric:
    """Return the declaration of a metric that the run may have declared before."""
    units = (info.unit, info.source_unit)
    if earlier is not None and info.unit == f"{earlier.unit}/atom":
        # Version 0.1 omitted "per atom", and the units of a run cannot change.
        units = (earlier.unit, earlier.source_unit)
    return Metric(
        unit=units[0], source_unit=units[1], label=info.text, better=info.better, watch=info.watch, main=info.main
    )


def _declared_metrics(folder: Path) -> Mapping[str, Metric]:
    """Return the declarations of an existing run; none if its journal is empty."""
    try:
        return read_header(folder).metrics
    except RunNotFound:
        return {}


def make_plan(request: Request, wait: TrainerWait | None = None) -> Plan:
    """Check a request, and find or create the run folder; wait for an earlier trainer of the run to end.

    Raises:
        RunAlive: the trainer of the run is alive on this machine.
        RunBusy: the trainer of the run may still be alive elsewhere after a long wait.
        ConfigError: the request is invalid, or the run cannot be resumed; the message has a line for each problem.
        TelemetryError: a telemetry setting is invalid.
        CheckpointError: the newest checkpoint of the run is of another trainer.
    """
    if request.resume is None:
        return _plan_new(request)
    wait = wait or TrainerWait(partial(echo, err=True))
    if request.resume == "auto":
        plan = _plan_auto(request, wait)
    else:
        # Errors of the settings are reported once the run is known.
        telemetry = merge_layers(request.configs, request.overrides, Problems())["telemetry"]
        directory = telemetry.get("dir") if isinstance(telemetry, dict) else None
        folder = resume_rules.find_run(request.resume, expand_user(str(directory or Settings().dir)))
        plan = _plan_when_free(request, wait, folder, local=False)
    for line in plan.notices:
        echo(line, err=True)
    return plan


def _plan_auto(request: Request, wait: TrainerWait) -> Plan:
    # What has been trained may no longer need all input files.
    config = load(request.configs, request.overrides, check_inputs=False)
    directory, job = _directory(_settings(config.telemetry)), current_job()
    selection = AutoResume(
        config=config,
        definition=find_definition(request.model, config.load, config.offset_between)[0],
        wait=wait,
        plan=partial(_plan_resume, request),
        # The trainer of a job that was requeued may have survived on the same node; outside of jobs, nothing repeats
        # the command later, and the user can see the other trainer.
        plan_when_free=partial(_plan_when_free, request, wait, local=job is not None),
        job=job,
    )
    plan = selection.choose(find_own_runs(config.run_name, directory, wait.say))
    if plan is None:
        whose = "" if job is None or job.task is None else " of this array task"
        echo(f"no unfinished run {config.run_name!r}{whose} in {directory}: starting a new one", err=True)
        return _plan_new(request)
    return plan


def _plan_when_free(request: Request, wait: TrainerWait, folder: Path, *, local: bool) -> Plan:
    """Plan the resume of a run whose trainer may have to end first; ``local``: even if it is on this machine."""
    # The request is checked before a long wait, after which the run has other checkpoints.
    plan = _plan_resume(request, folder)
    if plan.nothing_left or not wait.until_dead(folder, local=local):
        return plan
    return _plan_resume(request, folder)


def _plan_new(request: Request) -> Plan:
    problems = Problems()
    check_writable(request.save, problems)
    config = load(request.configs, request.overrides, problems=problems)
    settings, model_file = Settings(), DEFAULT
    definition: dict[str, Any] = {}
    with problems.collect():
        settings = _settings(config.telemetry)
    with problems.collect():
        definition, model_file = find_definition(request.model, config.load, config.offset_between)
    trust.check_settings(config, request.configs, request.overrides, problems)
    trust.check_definition(definition, model_file, problems)
    problems.raise_any()
    if model_file not in (request.model, DEFAULT):
        echo(f"model: as defined in {model_file}", err=True)
    folder, *above = create_folders(_directory(settings), config.run_name, settings.mode)
    return Plan(
        config=config,
        settings=settings,
        definition=definition,
        model_file=model_file,
        folder=folder,
        save=request.save,
        new_folders=(folder, *above),
    )


def _plan_resume(request: Request, folder: Path) -> Plan:
    problems = Problems()
    resume_rules.reject_links(folder, CHECKPOINTS)
    check_writable(request.save, problems)
    newest, status = find_newest(folder), read_receipt(folder).status
    notices = _check_checkpoints(folder, newest, status)
    config, inexact = resume_rules.load_config(
        folder, request.configs, request.overrides, problems=problems, restarts=newest is None
    )
    settings, definition = Settings(), {}
    with problems.collect():
        settings = _settings(config.telemetry)
    with problems.collect():
        asked = None if request.model is None else read_definition(request.model, config.offset_between)
        definition = resume_rules.load_definition(folder, asked, problems)
    files = (folder / resume_rules.CONFIG_FILE, *request.configs)
    trust.check_settings(config, files, request.overrides, problems)
    trust.check_definition(definition, folder / resume_rules.MODEL_FILE, problems)
    progress = None if newest is None else read_progress(newest)
    if progress is not None:
        check_epochs(config, progress, problems)
    problems.raise_any()
    if inexact:
        changes = "; ".join(inexact)
        notices.append(f"warning: {changes}: from here on, the run is not bit-identical to one without the change")
    return Plan(
        config=config,
        settings=settings,
        definition=definition,
        model_file=folder / resume_rules.MODEL_FILE,
        folder=folder,
        save=request.save,
        checkpoint=newest,
        resume_step=0 if progress is None else progress.iteration,
        given_options=_given_options(request),
        status_before=status,
        nothing_left=describe_completion(config, progress) if progress and status == "finished" else "",
        notices=tuple(notices),
    )


def _check_checkpoints(folder: Path, newest: Path | None, status: Status | None) -> list[str]:
    """Check that a run has a checkpoint if it needs one; return a warning about damaged ones."""
    damaged = ", ".join(map(str, find_damaged(folder)))
    if newest is None and damaged:
        raise ConfigError(f"all checkpoints of {folder} are damaged: {damaged}; remove them to restart at iteration 0")
    if newest is None and status == "finished":
        raise ConfigError(f"{folder} has finished, but has no checkpoint to continue from; start a new run")
    if newest is None or not damaged:
        return []
    return [f"warning: ignoring damaged checkpoints: {damaged}; resuming from {newest.name}"]


def _settings(telemetry: object) -> Settings:
    if not isinstance(telemetry, dict):
        raise ConfigError(f"telemetry is {telemetry!r}; expected a mapping")
    return Settings.parse({key: value for key, value in telemetry.items() if key != "units"})


def _given_options(request: Request) -> dict[str, list[str]]:
    """Return the names of the options under ``telemetry.SINK`` in the files and overrides of a request."""
    telemetry = merge_layers(request.configs, request.overrides, Problems())["telemetry"]
    return {name: list(options) for name, options in telemetry.items() if isinstance(options, dict)}


def _directory(settings: Settings) -> Path:
    return expand_user(settings.dir)


def echo(line: str, *, err: bool = False) -> None:
    """Print text on the terminal; ignore errors, because the journal contains all important information."""
    with contextlib.suppress(OSError, ValueError):
        print_lines(line, err=err)
