"""Plan a training run: check the request, and find or create the run folder, before torch is imported."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aimnet2mult.config import resume_rules
from aimnet2mult.config.merge import merge_layers
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.declarations import declare
from aimnet2mult.metrics.statistics import MetricInfo
from aimnet2mult.models.definition import DEFAULT, read_definition
from aimnet2mult.train.checkpoint_folder import find_damaged, find_newest, iteration_of
from telemetry import Metric, RunNotFound, Settings, read_header, read_receipt

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request, checked as far as possible without torch."""

    config: Config
    settings: Settings
    definition: dict[str, Any]
    folder: Path
    save: Path | None
    checkpoint: Path | None = None
    resume_step: int | None = None
    """The iteration after which an existing run continues; None for a new run."""
    report: Report | None = None
    """Result of checking the data; None before."""

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Declarations of the metrics that will be published."""
        config = self.config
        declared = declare(config.labels, config.fidelity_names, config.units, config.loss.components)
        earlier = {} if self.resume_step is None else _declared_metrics(self.folder)
        return {name: _declaration(info, earlier.get(name)) for name, info in declared.items()}


def _declaration(info: MetricInfo, earlier: Metric | None) -> Metric:
    """Return the declaration of a metric that the run may have declared before."""
    units = (info.unit, info.source_unit)
    if earlier is not None and info.unit == f"{earlier.unit}/atom":
        # Version 0.1 omitted "per atom", and the units of a run cannot change.
        units = (earlier.unit, earlier.source_unit)
    return Metric(unit=units[0], source_unit=units[1], label=info.text, direction=info.direction, watch=info.watch)


def _declared_metrics(folder: Path) -> Mapping[str, Metric]:
    """Return the declarations of an existing run; none if its journal is empty."""
    try:
        return read_header(folder).metrics
    except RunNotFound:
        return {}


def make_plan(request: Request) -> Plan:
    """Check a request, and find or create the run folder.

    Raises:
        ConfigError: the request is invalid, or the run cannot be resumed.
        TelemetryError: a telemetry setting is invalid.
    """
    _check_writable(request.save)
    if request.resume is None:
        return _plan_new(request)
    if request.resume != "auto":
        asked = merge_layers(request.configs, request.overrides)
        return _plan_resume(request, resume_rules.find_run(request.resume, Path(_settings(asked["telemetry"]).dir)))
    config = load(request.configs, request.overrides)
    directory = Path(_settings(config.telemetry).dir)
    for folder in resume_rules.list_newest_first(config.run_name, directory):
        if _can_resume(folder):
            return _plan_resume(request, folder)
    echo(f"no unfinished run {config.run_name!r} in {directory}: starting a new one", err=True)
    return _plan_new(request)


def _plan_new(request: Request) -> Plan:
    config = load(request.configs, request.overrides)
    settings = _settings(config.telemetry)
    definition = read_definition(request.model or DEFAULT)
    folder = _new_folder(Path(settings.dir), config.run_name)
    return Plan(config=config, settings=settings, definition=definition, folder=folder, save=request.save)


def _plan_resume(request: Request, folder: Path) -> Plan:
    config = resume_rules.load_config(folder, request.configs, request.overrides)
    asked = None if request.model is None else read_definition(request.model)
    newest = find_newest(folder)
    if damaged := find_damaged(folder):
        names = ", ".join(map(str, damaged))
        if newest is None:
            raise ConfigError(
                f"all checkpoints of {folder} are damaged: {names}; remove them to restart at iteration 0"
            )
        echo(f"warning: ignoring damaged checkpoints: {names}; resuming from {newest.name}", err=True)
    return Plan(
        config=config,
        settings=_settings(config.telemetry),
        definition=resume_rules.load_definition(folder, asked),
        folder=folder,
        save=request.save,
        checkpoint=newest,
        resume_step=0 if newest is None else iteration_of(newest),
    )


def _settings(telemetry: object) -> Settings:
    if not isinstance(telemetry, dict):
        raise ConfigError(f"telemetry is {telemetry!r}; expected a mapping")
    return Settings.parse({key: value for key, value in telemetry.items() if key != "units"})


def _new_folder(directory: Path, run_name: str) -> Path:
    now = time.time()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = directory / resume_rules.run_name_at(run_name, now, number)
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise ConfigError(
            f"telemetry.dir: cannot write to {directory}: {error.strerror}; choose another with --telemetry-dir"
        ) from error
    raise AssertionError


def _check_writable(path: Path | None) -> None:
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError(
            f"--save {path}: cannot write to the folder {path.absolute().parent}; create it or choose another"
        )


def _can_resume(folder: Path) -> bool:
    """Return whether a run is unfinished; a run that failed before its first checkpoint would only fail again."""
    status = read_receipt(folder).status
    return status != "finished" and (status != "failed" or find_newest(folder) is not None)


def echo(line: str, *, err: bool = False) -> None:
    """Print a line on the terminal; ignore errors, because the journal contains all important information."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(line, err=err)
