"""The MLflow sink: runs in an SQLite file next to the run folders, or on a tracking server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sinks.mlflow.client import connect, create_store, login_errors, mlflow_calls
from sinks.mlflow.confirmation import is_harmless
from sinks.mlflow.names import MAX_TAG_LENGTH, valid_name
from sinks.mlflow.tracking_uri import DEFAULT_STORE, TrackingUri, resolve_tracking_uri, validate_option
from telemetry.sink_api import (
    Opened,
    Record,
    RunRecord,
    SettingError,
    SinkRejected,
    Status,
    file_mode,
    hookimpl,
    is_installed,
    redact,
)

if TYPE_CHECKING:
    from sinks.mlflow.run import MlflowRun
    from sinks.mlflow.sqlite_store import SqliteStore

_MAX_OPTION_LENGTH = 500
"""Maximum number of characters in the name of an experiment or run."""


class MlflowSink:
    """Log the metrics of each record at its iteration, with its time.

    The tag ``telemetry.key`` identifies the run, and ``telemetry.seq`` holds the number of the last stored record.
    Points superseded by a resume are kept, because MLflow cannot remove them; ``telemetry.resumed.<attempt>`` holds
    the iteration from which each attempt continued. An infinite value is stored as NaN, and its sign (1 or -1) as a
    point of ``<metric>.inf`` at the same iteration. Characters that MLflow does not allow in a name become ``_``, and
    ``name.<metric>`` holds the original name. Units and labels are in the description, parameters changed by a later
    attempt in ``telemetry.param.<name>``, and the best validation values so far in ``best/val/<metric>``. Media are
    artifacts.

    Each point appears once in MLflow's own stores, which recognize identical points; a third-party store may show the
    points of the last call before a kill twice. An SQLite file needs a file system with working locks; otherwise use a
    server.
    """

    requires = ("mlflow",)
    destinations: ClassVar = {"tracking_uri": is_harmless}
    media: ClassVar = ("text", "table", "image", "histogram", "artifact")
    connect = staticmethod(connect)
    create_store = staticmethod(create_store)

    @dataclass
    class Options:
        """Options of the sink.

        Attributes:
            tracking_uri: URI of a server or a database, without credentials; by default MLFLOW_TRACKING_URI, else
                ``mlflow.db`` in the parent of the run folder. A relative path of an SQLite file is resolved against
                that parent, not against the working directory.
            experiment: name of the experiment; by default MLFLOW_EXPERIMENT_NAME, else the run's project, else
                ``Default``.
            run_name: displayed name of the run; by default its own name.
            tags: additional tags of the run.
        """

        tracking_uri: str | None = None
        experiment: str | None = None
        run_name: str | None = None
        tags: dict[str, str] = field(default_factory=dict)

    def __init__(self, options: Options) -> None:
        _validate(options)
        self._options = options
        self._tracking_uri = TrackingUri("", "")
        self._store: SqliteStore | None = None
        self._run: MlflowRun | None = None

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Find the run, or create it, and update its description."""
        # Resolve links, so that the default store does not depend on the path given for the folder.
        folder = folder.resolve()
        self._tracking_uri = resolve_tracking_uri(self._options.tracking_uri, folder.parent)
        with mlflow_calls(self._tracking_uri), login_errors(self._tracking_uri):
            return self._open(run, folder)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Log the metrics of the records that are not stored yet."""
        with self._opened_run() as run:
            return run.write(records)

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; tags hold the exact status and the reason."""
        with self._opened_run() as run:
            run.close(status, time, reason)

    def _open(self, run: RunRecord, folder: Path) -> Opened:
        from sinks.mlflow.run import MlflowRun, open_experiment

        tracking_uri, options = self._tracking_uri, self._options
        if tracking_uri.needs_sqlalchemy and not is_installed("sqlalchemy"):
            msg = (
                f"{tracking_uri.shown} is a database, which mlflow-skinny cannot write to: "
                "pip install 'aimnet2mult[mlflow]', or set telemetry.mlflow.tracking_uri to the URL of a server"
            )
            raise SinkRejected(msg)
        artifacts = None
        if tracking_uri.file is not None:
            from sinks.mlflow.sqlite_store import SqliteStore

            named = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
            unshared = None if named else folder.parent / DEFAULT_STORE
            # MLflow's own default is relative to the working directory.
            artifacts = str(tracking_uri.file.with_name("mlartifacts"))
            create = partial(self.create_store, artifacts=artifacts)
            self._store = SqliteStore(tracking_uri.file, create, file_mode(folder), unshared=unshared)
        client = self.connect(tracking_uri.uri)
        experiment = options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.project or "Default"
        experiment_id = open_experiment(client, experiment, artifacts)
        self._run = MlflowRun(client, experiment_id, run, folder, redact(options.run_name) or run.name)
        self._run.describe(redact(options.tags))
        return Opened(
            destination=f"{tracking_uri.shown}, experiment {experiment_id}, run {self._run.run_id}",
            last_seq=self._run.last_seq,
            view=tracking_uri.view(experiment_id, self._run.run_id),
        )

    @contextmanager
    def _opened_run(self) -> Iterator[MlflowRun]:
        assert self._run is not None  # noqa: S101 - sink_open comes first
        with mlflow_calls(self._tracking_uri):
            if self._store is not None:
                self._store.check_unchanged()
            yield self._run


def _validate(options: MlflowSink.Options) -> None:
    if options.tracking_uri is not None:
        validate_option(options.tracking_uri)
    for name, value in (("experiment", options.experiment), ("run_name", options.run_name)):
        if value is not None and not (value.strip() and len(value) <= _MAX_OPTION_LENGTH):
            msg = f"telemetry.mlflow.{name} is {value!r}; use 1 to {_MAX_OPTION_LENGTH} characters, or leave it out"
            raise SettingError(msg)
    for name, value in options.tags.items():
        if valid_name(name) != name or name.startswith(("telemetry.", "mlflow.")):
            msg = (
                f"telemetry.mlflow.tags has {name!r}; the name of a tag consists of letters, digits and _ - . : / and "
                "space, and does not begin with telemetry. or mlflow."
            )
            raise SettingError(msg)
        if len(value) > MAX_TAG_LENGTH:
            msg = f"telemetry.mlflow.tags.{name} has {len(value)} characters; MLflow accepts up to {MAX_TAG_LENGTH}"
            raise SettingError(msg)
