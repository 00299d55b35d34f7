"""The Weights & Biases sink: runs on a W&B server, or files for ``wandb sync``."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sinks._paths import own_folder
from sinks.wandb.client_process import answered_within, end_noted, forget, noticing
from sinks.wandb.destinations import EXIT_CODES, Files, Place, Server
from sinks.wandb.offline_files import ALERT, ATTEMPT, SEQ, STATUS, Held
from sinks.wandb.run_config import config, run_id
from sinks.wandb.server import has_key
from telemetry.sink_api import (
    Alert,
    Opened,
    Record,
    Resumed,
    RunRecord,
    Scalars,
    SettingError,
    SinkRejected,
    SinkUnavailable,
    Status,
    backend_errors,
    hookimpl,
)

ITERATION = "trainer/iteration"
"""The key of the iteration, which every metric is drawn over."""

_BACKEND = "wandb"
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
_OWN = (ITERATION, SEQ, ATTEMPT)
_FINISH_TIMEOUT = 60.0
_INIT_TIMEOUT = 30.0
_WRITE_TIMEOUT = 60.0
_FLUSH_EVERY = 2.0
_LEVELS = {"info": "INFO", "warning": "WARN", "error": "ERROR"}
_PROJECT = "uncategorized"
_NOT_IN_PROJECTS = "/\\#?%:"
_TITLE = 63
# Without it, W&B passes over a second alert of one title within a minute.
_ALERT_WAIT = 0.001


class WandbSink:
    """Write one row of W&B's history for each record, with its iteration, number, attempt and original time.

    W&B's own number of a row (``_step``) counts rows; all metrics are declared to be drawn over ``trainer/iteration``.
    Rows that a resume has superseded stay, and are told apart by ``telemetry/attempt``. What wandb has in memory does
    not count as delivered: after a kill, delivery goes on behind the last row in its file or on its server.
    """

    requires = ("wandb",)

    @dataclass
    class Options:
        """Options of the sink.

        Attributes:
            project: WANDB_PROJECT or the run's project by default.
            entity: who the project belongs to; WANDB_ENTITY or the key's own by default.
            name: of the run as it is shown; the run's name by default.
            group, tags, notes: as W&B has them.
            mode: ``online`` or ``offline``; by default WANDB_MODE, else online if there is a key for the server.
            dir: the folder for W&B's files (it makes ``wandb`` in it): the run folder by default. A relative path
                starts at the run folder.
        """

        project: str | None = None
        entity: str | None = None
        name: str | None = None
        group: str | None = None
        tags: list[str] = field(default_factory=list)
        notes: str | None = None
        mode: Literal["online", "offline"] | None = None
        dir: str | None = None

    def __init__(self, options: Options) -> None:
        for name in ("project", "entity", "name", "group", "dir"):
            value = getattr(options, name)
            if value is not None and (not value.strip() or "\0" in value):
                msg = f"telemetry.wandb.{name} is {value!r}; give it a value, or leave it out"
                raise SettingError(msg)
        refused = sorted(set(options.project or "") & set(_NOT_IN_PROJECTS))
        if refused:
            msg = f"telemetry.wandb.project is {options.project!r}; W&B takes no {' '.join(refused)} in it"
            raise SettingError(msg)
        self._options = options
        self._run: Any = None
        self._accepted = 0

    @hookimpl
    @backend_errors(_BACKEND)
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Find out what W&B holds. The run is opened there when there is something to be told."""
        taken = [name for name in _OWN if name in run.metrics]
        if taken:
            msg = f"wandb: the sink has a key {taken[0]!r} of its own; give the metric of that name another"
            raise SinkRejected(msg)
        self._record = run
        self._id = run_id(run)
        self._dir = self._find_folder(folder)
        self._dir.mkdir(parents=True, exist_ok=True)
        self._note = self._dir / f".{self._id}.core"
        # First of all: one that was left behind must not add to what is looked at now.
        end_noted(self._note)
        with noticing():
            settings = _wandb_settings()
        # Left to itself, wandb names it by the folder in which the process was started.
        self._project = self._options.project or os.environ.get("WANDB_PROJECT") or run.project or _PROJECT
        self._place = self._find_place(settings)
        self._held = self._place.look()
        self._accepted = self._held.last_seq or 0
        self._attempt = self._held.attempt
        self._last_alert = self._held.last_alert
        return Opened(destination=self._place.destination, last_seq=self._held.last_seq, view=self._place.view)

    @hookimpl
    @backend_errors(_BACKEND)
    def sink_write(self, records: Sequence[Record]) -> int | None:
        """Hand the records to wandb; give the last one that it has written or uploaded."""
        with answered_within(_WRITE_TIMEOUT):
            return self._write(records)

    @hookimpl
    @backend_errors(_BACKEND)
    def sink_close(self, status: Status, reason: str) -> None:
        """Finish W&B's run, and see that all has come to where it is kept."""
        with answered_within(_INIT_TIMEOUT + _FINISH_TIMEOUT):
            self._close(status, reason)

    def _write(self, records: Sequence[Record]) -> int | None:
        new = sum(isinstance(record, Scalars) and record.seq > self._accepted for record in records)
        if new:
            self._opened()
            self._place.foresee(self._step + new, self._attempt)
        for record in records:
            if isinstance(record, Scalars):
                self._log(record)
            elif isinstance(record, Resumed):
                self._attempt = record.attempt
            elif isinstance(record, Alert):
                self._alert(record)
        return self._place.confirmed(self._accepted) if self._run is not None else self._held.last_seq

    def _close(self, status: Status, reason: str) -> None:
        if self._run is None and self._held.status == status:
            return
        run = self._opened()
        self._place.confirmed(self._accepted)
        run.summary.update({STATUS: status, "telemetry/reason": reason, ALERT: self._last_alert})
        if status == "preempted":
            run.mark_preempting()
        run.finish(exit_code=EXIT_CODES[status])
        self._place.await_end(self._accepted, status)
        self._run = None
        self._held = Held(last_seq=self._accepted, next_step=self._step, status=status, last_alert=self._last_alert)
        # Nothing is left in memory that could come later.
        forget(self._note)

    def _log(self, record: Scalars) -> None:
        if record.seq <= self._accepted:
            return
        row = dict(record.items()) | {
            ITERATION: record.step,
            SEQ: record.seq,
            ATTEMPT: self._attempt,
            "_timestamp": record.time / 1000,
        }
        # The step counts rows and never goes back; one that does would be dropped by wandb.
        self._opened().log(row, step=self._step, commit=True)
        self._step += 1
        self._accepted = record.seq

    def _alert(self, record: Alert) -> None:
        # No row tells of one that was the last record of a run, which every later delivery would give again.
        if record.seq <= self._last_alert:
            return
        self._opened().alert(
            title=record.title[:_TITLE],
            text=f"iteration {record.step}: {record.title}\n{record.text}".strip(),
            level=_LEVELS[record.level],
            wait_duration=_ALERT_WAIT,
        )
        self._last_alert = record.seq

    def _find_folder(self, run: Path) -> Path:
        given = self._options.dir
        # In it, wandb makes its folder, by the name that it has chosen.
        return own_folder(run, _BACKEND).parent if given is None else (run / Path(given).expanduser()).resolve()

    def _find_place(self, settings: Any) -> Place:
        mode = self._options.mode or _set_mode(settings)
        if mode is None:
            mode = "online" if has_key(settings.base_url) else "offline"
        if mode == "offline":
            return Files(self._dir, self._id)
        return Server(
            settings.base_url,
            settings.app_url,
            project=self._project,
            entity=self._options.entity or settings.entity,
            run_id=self._id,
        )

    def _opened(self) -> Any:
        """Give wandb's run; open it at the first call."""
        if self._run is None:
            run = self._open()
            folder = Path(run.dir).parent
            if folder.parent != self._dir / "wandb":
                # What it writes there would be found by nobody.
                msg = f"wandb: {self._dir} cannot be written to, and wandb went to {folder.parent} instead"
                raise SinkUnavailable(msg)
            self._run = run
            self._place.begin(folder)
            self._step = max(self._held.next_step, self._run.starting_step)
        return self._run

    def _open(self) -> Any:
        import wandb

        options, record = self._options, self._record
        # Parameters are for those who may read the journal; wandb's own files follow the umask.
        (self._dir / "wandb").mkdir(mode=0o700, exist_ok=True)
        with noticing(self._note):
            run = wandb.init(
                id=self._id,
                mode=self._place.mode,
                resume="allow" if self._place.mode == "online" else None,
                reinit="create_new",
                dir=str(self._dir),
                project=self._project,
                entity=options.entity,
                name=options.name or record.name,
                group=options.group,
                tags=options.tags or None,
                notes=options.notes,
                config=config(record),
                allow_val_change=True,
                settings=wandb.Settings(**_settings(record)),
            )
        run.define_metric(ITERATION, hidden=True)
        # Without any that was declared, whatever comes.
        for name in record.metrics or ("*",):
            run.define_metric(name, step_metric=ITERATION)
        run.summary[STATUS] = "running"
        return run


def _wandb_settings() -> Any:
    """Give what the environment and wandb's own files set."""
    # Reports of errors would go to a host that compute nodes cannot reach, also from a run that is offline.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.setup().settings
    if settings.sweep_id:
        msg = "wandb: a sweep gives its runs ids of its own, by which they are not found again; unset WANDB_SWEEP_ID"
        raise SinkRejected(msg)
    return settings


def _set_mode(settings: Any) -> str | None:
    """Give the mode that WANDB_MODE or a file of wandb's sets, None if there is none; raises SinkRejected."""
    mode = os.environ.get("WANDB_MODE") or (settings.mode if "mode" in settings.model_fields_set else "")
    if mode == "disabled":
        msg = "wandb: W&B is disabled, by WANDB_MODE or `wandb disabled`; leave the sink out, or give it a mode"
        raise SinkRejected(msg)
    return _MODES.get(mode)


def _settings(run: RunRecord) -> dict[str, Any]:
    # The machine and its load are told of the trainer, and only while it lives here.
    here = run.host == socket.gethostname() and Path(f"/proc/{run.pid}").exists()
    return {
        "silent": True,
        "use_dot_wandb": False,
        "console": "off",
        "host": run.host,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "program": "",
        "init_timeout": _INIT_TIMEOUT,
        "finish_timeout": _FINISH_TIMEOUT,
        "finish_timeout_raises": True,
        "x_save_requirements": False,
        "x_disable_meta": not here,
        "x_disable_stats": not here,
        "x_disable_machine_info": not here,
        "x_stats_pid": run.pid,
        "x_transaction_log_flush_interval": _FLUSH_EVERY,
    }
