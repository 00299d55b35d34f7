"""What a training run is to do: checked, and its folder found or made, before torch is imported."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import click

from aimnet2mult.config import resume_rules as resume
from aimnet2mult.config.merge import merge_layers
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.declarations import declare
from aimnet2mult.models.definition import DEFAULT, read_definition
from aimnet2mult.train import checkpointing as checkpoint
from telemetry import Metric, Settings, read_receipt

__all__ = ["Plan", "Request", "echo", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command was asked for."""

    configs: Sequence[Path] = ()
    overrides: Sequence[str] = ()
    model: Path | None = None
    save: Path | None = None
    resume: str | None = None
    """A run's folder or name, or ``auto``."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, checked as far as that goes without torch."""

    config: Config
    settings: Settings
    definition: dict[str, Any]
    folder: Path
    save: Path | None
    checkpoint: Path | None = None
    resume_step: int | None = None
    """The iteration after which an existing run goes on; None for a new run."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """What is going to be published."""
        config = self.config
        declared = declare(config.labels, config.fidelity_names, config.units)
        return {
            name: Metric(unit=info.unit, source_unit=info.source_unit, label=info.text, watch=info.watch)
            for name, info in declared.items()
        }


def make_plan(request: Request) -> Plan:
    """Check the request, and find or make the run's folder."""
    _check_writable(request.save)
    if request.resume is None:
        return _plan_new(request)
    if request.resume != "auto":
        asked = merge_layers(request.configs, request.overrides)
        return _plan_resume(request, resume.find_run(request.resume, Path(_settings(asked["telemetry"]).dir)))
    config = load(request.configs, request.overrides)
    directory = Path(_settings(config.telemetry).dir)
    for folder in resume.newest_first(config.run_name, directory):
        if _can_go_on(folder):
            return _plan_resume(request, folder)
    echo(f"no unfinished run {config.run_name!r} in {directory}: this starts a new one", err=True)
    return _plan_new(request)


def _plan_new(request: Request) -> Plan:
    config = load(request.configs, request.overrides)
    settings = _settings(config.telemetry)
    definition = read_definition(request.model or DEFAULT)
    folder = _new_folder(Path(settings.dir), config.run_name)
    return Plan(config=config, settings=settings, definition=definition, folder=folder, save=request.save)


def _plan_resume(request: Request, folder: Path) -> Plan:
    config = resume.load_config(folder, request.configs, request.overrides)
    asked = None if request.model is None else read_definition(request.model)
    newest = checkpoint.newest(folder)
    if broken := checkpoint.damaged(folder):
        names = ", ".join(map(str, broken))
        if newest is None:
            raise ConfigError(f"no checkpoint of {folder} is whole: {names}; remove them to start again at iteration 0")
        echo(f"warning: damaged and passed over: {names}; the run goes on from {newest.name}", err=True)
    return Plan(
        config=config,
        settings=_settings(config.telemetry),
        definition=resume.load_definition(folder, asked),
        folder=folder,
        save=request.save,
        checkpoint=newest,
        resume_step=0 if newest is None else checkpoint.step_of(newest),
    )


def _settings(telemetry: object) -> Settings:
    if not isinstance(telemetry, dict):
        raise ConfigError(f"telemetry is {telemetry!r}: expected `mapping`")
    return Settings.parse({key: value for key, value in telemetry.items() if key != "units"})


def _new_folder(directory: Path, run_name: str) -> Path:
    now = time.time()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = directory / resume.run_name_at(run_name, now, number)
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
        raise ConfigError(f"--save {path}: cannot write to the folder {path.absolute().parent}")


def _can_go_on(folder: Path) -> bool:
    """Say whether a run is unfinished, and did not fail before its first checkpoint, as it would again."""
    status = read_receipt(folder).status
    return status != "finished" and (status != "failed" or checkpoint.newest(folder) is not None)


def echo(line: str, *, err: bool = False) -> None:
    """Show a line on the terminal."""
    # What cannot be shown is no reason to fail: the journal has it.
    with contextlib.suppress(OSError, ValueError):
        click.echo(line, err=err)
