"""The MLflow sink: runs in an SQLite file beside the run folders, or on a tracking server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sinks.mlflow import client
from sinks.mlflow.names import key
from sinks.mlflow.tracking_uri import Place, check_option, place
from telemetry.sink_api import Opened, Record, RunRecord, SettingError, SinkRejected, Status, hookimpl

if TYPE_CHECKING:
    from sinks.mlflow.run import Run
    from sinks.mlflow.sqlite_store import StoreFile

_TEXT_LIMIT = 500
_TAG_LIMIT = 8000


class MlflowSink:
    """Log the metrics of each record at its iteration, with its time.

    The run is found again by the tag ``telemetry.key``, and ``telemetry.seq`` has the number of the last record that is
    there. Points that a resume has superseded stay, as MLflow cannot take them back; ``telemetry.resumed.<attempt>``
    says where each attempt went on. An infinite value is NaN, and its sign (1 or -1) is a point of ``<metric>.inf`` at
    the same iteration. A character that MLflow refuses in a name becomes ``_``, and ``name.<metric>`` has the original.
    Units are in ``unit.<metric>``, parameters that a later attempt has changed in ``telemetry.param.<name>``.

    Nothing comes twice on MLflow's own stores, which know a point that they have; another one may show the last call
    before a kill twice. An SQLite file needs a file system whose locks work; on others use a server.
    """

    requires = ("mlflow",)
    connect = staticmethod(client.connect)

    @dataclass
    class Options:
        """Options of the sink.

        Attributes:
            tracking_uri: the address of a server or of a database: MLFLOW_TRACKING_URI by default, else
                ``mlflow.db`` in the folder that holds the run folders; there a relative path of an SQLite file starts,
                so that whoever delivers, from wherever, comes to the same one. Without a login: options are journaled.
            experiment: by default MLFLOW_EXPERIMENT_NAME, else the run's project, else ``Default``.
            run_name: the run's own name by default.
            tags: further tags of the run.
        """

        tracking_uri: str | None = None
        experiment: str | None = None
        run_name: str | None = None
        tags: dict[str, str] = field(default_factory=dict)

    def __init__(self, options: Options) -> None:
        _check(options)
        self._options = options
        self._place = Place("", "")
        self._file: StoreFile | None = None
        self._run: Run | None = None

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Find the run, or create it, and describe it."""
        # However the folder is reached, it is beside the same store.
        folder = folder.resolve()
        self._place = place(self._options.tracking_uri, folder.parent)
        with client.calls(self._place), client.opening(self._place):
            return self._open(run, folder)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Log the metrics of the records; those that are there already are not sent again."""
        with self._attached() as attached:
            return attached.write(records)

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; tags have what else is known, as that it was pre-empted."""
        with self._attached() as attached:
            attached.close(status, time, reason)

    def _open(self, run: RunRecord, folder: Path) -> Opened:
        from sinks.mlflow.run import Run, open_experiment

        where, options = self._place, self._options
        if where.needs_sqlalchemy and find_spec("sqlalchemy") is None:
            msg = (
                f"{where.shown} is a database, which mlflow-skinny cannot write to: pip install 'aimnet2mult[mlflow]', "
                "or give the address of a server in telemetry.mlflow.tracking_uri"
            )
            raise SinkRejected(msg)
        if where.file is not None:
            from sinks.mlflow.sqlite_store import StoreFile

            self._file = StoreFile(where.file, self.connect)
        client = self.connect(where.uri)
        experiment = options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.project or "Default"
        # MLflow's own choice is a folder where the process was started.
        artifacts = None if where.file is None else str(where.file.with_name("mlartifacts"))
        experiment_id = open_experiment(client, experiment, artifacts)
        self._run = Run(client, experiment_id, run, folder, options.run_name or run.name)
        self._run.describe(options.tags)
        return Opened(
            destination=f"{where.shown}, experiment {experiment_id}, run {self._run.run_id}",
            last_seq=self._run.seq,
            view=where.view(experiment_id, self._run.run_id),
        )

    @contextmanager
    def _attached(self) -> Iterator[Run]:
        assert self._run is not None  # noqa: S101 - sink_open comes first
        with client.calls(self._place):
            if self._file is not None:
                self._file.check()
            yield self._run


def _check(options: MlflowSink.Options) -> None:
    if options.tracking_uri is not None:
        check_option(options.tracking_uri)
    for name, value in (("experiment", options.experiment), ("run_name", options.run_name)):
        if value is not None and not (value.strip() and len(value) <= _TEXT_LIMIT):
            msg = f"telemetry.mlflow.{name} is {value!r}; give up to {_TEXT_LIMIT} characters, or leave it out"
            raise SettingError(msg)
    for name, value in options.tags.items():
        if key(name) != name or name.startswith(("telemetry.", "mlflow.")):
            msg = (
                f"telemetry.mlflow.tags has {name!r}; a tag's name has letters, digits and _ - . : / and space, and "
                "does not begin with telemetry. or mlflow."
            )
            raise SettingError(msg)
        if len(value) > _TAG_LIMIT:
            msg = f"telemetry.mlflow.tags.{name} has {len(value)} characters; MLflow takes {_TAG_LIMIT}"
            raise SettingError(msg)
