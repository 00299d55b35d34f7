"""The Weights & Biases sink: runs on a W&B server, or files for ``wandb sync``."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Literal

from sinks._best_values import BestValues
from sinks._paths import default_folder
from sinks.wandb.client_process import deadline, kill_clients_of_run, release_client, track_client
from sinks.wandb.destinations import Destination, OfflineDestination, ServerDestination
from sinks.wandb.media import MediaRows, contents_size
from sinks.wandb.metric_definitions import define_axes, define_metrics
from sinks.wandb.run_config import client_settings, config, identity, run_id
from sinks.wandb.run_writer import RunWriter
from sinks.wandb.stored_run import STATUS_KEY
from sinks.wandb.sweep import RunPath, find_sweep_run
from sinks.wandb.timeouts import Timeouts
from sinks.wandb.user_settings import choose_mode, load_settings
from sinks.wandb.working_folder import check_working_folder
from telemetry.sink_api import (
    Opened,
    Record,
    RunRecord,
    RunUpdate,
    SettingError,
    SinkUnavailable,
    Status,
    backend_errors,
    file_mode,
    hookimpl,
    is_inside,
    local_path,
    redact,
    updated,
)

_BACKEND = "wandb"
_DEFAULT_PROJECT = "uncategorized"
_JOB_TYPE = "train"
_MIN_BYTES_PER_SECOND = 1e6
"""The rate assumed when the time for passing a batch with media to the wandb client is limited."""
_FORBIDDEN_IN_PROJECT = "/\\#?%:"


class WandbSink:
    """Write one row of W&B's history for each record, with its iteration, sequence number, attempt and original time.

    W&B's own row number (``_step``) counts rows; the x-axis of all metrics is ``trainer/iteration``. Rows superseded by
    a resume are kept, distinguished by ``telemetry/attempt``. Rows still in wandb's memory do not count as delivered:
    after a kill, delivery continues after the last row in the file or on the server.
    """

    requires = ("wandb",)
    destinations: ClassVar = {"dir": is_inside}
    media: ClassVar = ("text", "table", "image", "histogram", "artifact")
    timeouts = Timeouts()

    @dataclass
    class Options:
        """Options of the sink.

        Attributes:
            project: W&B project; by default WANDB_PROJECT, else the run's project. That of a sweep takes precedence.
            entity: owner of the project; by default WANDB_ENTITY, else the owner of the key. That of a sweep takes
                precedence.
            name: displayed name of the run; by default its own name.
            group: W&B group of the run; by default WANDB_RUN_GROUP.
            job_type: W&B job type of the run; by default WANDB_JOB_TYPE, else ``train``.
            tags: W&B tags of the run.
            notes: W&B notes of the run.
            mode: ``online`` or ``offline``; by default WANDB_MODE, else online if there is a key for the server.
            dir: parent of the folder ``wandb`` with W&B's files; the run folder by default. A relative path is resolved
                against the run folder.
        """

        project: str | None = None
        entity: str | None = None
        name: str | None = None
        group: str | None = None
        job_type: str | None = None
        tags: list[str] = field(default_factory=list)
        notes: str | None = None
        mode: Literal["online", "offline"] | None = None
        dir: str | None = None

    def __init__(self, options: Options) -> None:
        self._chosen = None if options.dir is None else local_path(options.dir, "telemetry.wandb.dir", SettingError)
        _validate(options)
        self._options = options

    @hookimpl
    @backend_errors(_BACKEND)
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Query the rows that W&B already has. The W&B run itself is opened lazily, on the first write."""
        self._record = run
        self._folder = _resolve_folder(folder, self._chosen)
        self._folder_mode = 0o750 if file_mode(folder) & stat.S_IRGRP else 0o700
        self._folder.mkdir(parents=True, exist_ok=True)
        check_working_folder()
        with track_client(exit_timeout=self.timeouts.exit):
            settings = load_settings()
        # wandb's own default is the name of the working directory.
        project = self._options.project or os.environ.get("WANDB_PROJECT") or run.project or _DEFAULT_PROJECT
        own = RunPath(run_id(run), project, self._options.entity)
        self._path = find_sweep_run(folder, settings, _DEFAULT_PROJECT) or own
        # Before inspect(): a client left over from an earlier delivery must not write after that.
        kill_clients_of_run(self._folder / "wandb", self._path.run_id)
        destination = self._destination = self._choose_destination(settings)
        stored = destination.inspect()
        self._best = BestValues(run, folder)
        media = MediaRows(folder.resolve(), run.metrics)
        self._writer = RunWriter(self._open_run, destination, stored, self._best, media)
        return Opened(destination.location, stored.last_seq, destination.view)

    @hookimpl
    @backend_errors(_BACKEND)
    def sink_write(self, records: Sequence[Record]) -> int | None:
        """Pass the records to wandb, and return the highest sequence number written to disk or uploaded."""
        with deadline(self.timeouts.write + contents_size(records) / _MIN_BYTES_PER_SECOND):
            updates = (record for record in records if isinstance(record, RunUpdate))
            if (updated_run := reduce(updated, updates, self._record)) != self._record:
                self._describe(updated_run)
            return self._writer.write(records)

    @hookimpl
    @backend_errors(_BACKEND)
    def sink_close(self, status: Status, reason: str) -> None:
        """Finish the W&B run, and wait until it is stored completely."""
        with deadline(self.timeouts.init + self.timeouts.finish):
            self._writer.finish(status, reason)
        # The client has nothing left in memory.
        release_client(self._path.run_id)

    def _describe(self, record: RunRecord) -> None:
        """Apply additions to the description of the run, if it is open; otherwise it will be opened with them."""
        known, known_best = self._record.metrics, self._best.names
        self._record = record
        self._best.declare(record)
        self._writer.media.metrics = record.metrics
        if (run := self._writer.run) is not None:
            new_best = [name for name in self._best.names if name not in known_best]
            define_axes(run, [name for name in record.metrics if name not in known], new_best)
            run.config.update(config(record), allow_val_change=True)

    def _choose_destination(self, settings: Any) -> Destination:
        if choose_mode(self._options.mode, settings) == "offline":
            return OfflineDestination(self._folder, self._path.run_id, self.timeouts)
        return ServerDestination(
            settings.base_url,
            settings.app_url,
            project=self._path.project,
            entity=self._path.entity or settings.entity,
            run_id=self._path.run_id,
            timeouts=self.timeouts,
            owner=identity(self._record) if self._path.sweep_id else None,
        )

    def _open_run(self) -> Any:
        """Open the run in wandb, and declare its metrics."""
        # As accessible as the journal, because the files contain parameters; wandb itself follows the umask.
        (self._folder / "wandb").mkdir(mode=self._folder_mode, exist_ok=True)
        with track_client(self._path.run_id, exit_timeout=self.timeouts.exit):
            run = self._init()
        define_metrics(run, self._record.metrics, self._best.names)
        run.summary[STATUS_KEY] = "running"
        _check_folder(run, self._folder)
        return run

    def _init(self) -> Any:
        import wandb

        options, record, path, mode = self._options, self._record, self._path, self._destination.mode
        # Below `wandb agent`, wandb itself takes the path from the environment, and warns about any other.
        is_below_agent = bool(wandb.setup().settings.sweep_id)
        return wandb.init(
            id=None if is_below_agent else path.run_id,
            project=None if is_below_agent else path.project,
            entity=None if is_below_agent else path.entity,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            dir=str(self._folder),
            # W&B names the runs of a sweep, which all have the same name of their own.
            name=redact(options.name) or (None if path.sweep_id else record.name),
            group=redact(options.group),
            job_type=redact(options.job_type) or os.environ.get("WANDB_JOB_TYPE") or _JOB_TYPE,
            tags=redact(options.tags) or None,
            notes=redact(options.notes),
            config=config(record),
            allow_val_change=True,
            settings=wandb.Settings(**client_settings(record, self.timeouts)),
        )


def _resolve_folder(run: Path, chosen: Path | None) -> Path:
    # wandb creates a folder with the fixed name "wandb" in it.
    return default_folder(run, _BACKEND).parent if chosen is None else (run / chosen).resolve()


def _check_folder(run: Any, expected: Path) -> None:
    """Check that wandb writes to the chosen folder: the next sink_open would not find the rows in another one."""
    if (folder := Path(run.dir).parent).parent != expected / "wandb":
        msg = f"wandb: {expected} is not writable, so wandb chose {folder.parent} instead"
        raise SinkUnavailable(msg)


def _validate(options: WandbSink.Options) -> None:
    for name in ("project", "entity", "name", "group", "job_type"):
        value = getattr(options, name)
        if value is not None and (not value.strip() or "\0" in value):
            msg = f"telemetry.wandb.{name} is {value!r}; set it to a value, or leave it out"
            raise SettingError(msg)
    forbidden = sorted(set(options.project or "") & set(_FORBIDDEN_IN_PROJECT))
    if forbidden:
        msg = f"telemetry.wandb.project is {options.project!r}; W&B does not allow {' '.join(forbidden)} in it"
        raise SettingError(msg)
