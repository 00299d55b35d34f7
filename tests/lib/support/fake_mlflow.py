"""A fake ``MlflowClient`` that stores runs in a file, and fails in ways observed with the real one.

tests/sinks/mlflow/test_sdk.py runs the same tests on both. Each change is one line of the file, written at once, so
that it survives a kill.
"""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Fault = Callable[[str], "str | None"]
"""Function that returns how the call with this name fails: one of ``FaultyMlflow.FAILURES``, or None."""

_NAME = re.compile(r"[/\w.\- :]*\Z")


@dataclass
class _Run:
    """A stored run."""

    experiment_id: str
    name: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    stage: str = "active"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[tuple[int, int, float, bool], None]] = field(default_factory=dict)
    datasets: dict[tuple[str, ...], None] = field(default_factory=dict)


class FakeMlflow:
    """The client of a store in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._experiments: dict[str, dict[str, str]] = {}
        self._runs: dict[str, _Run] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        self._catch_up()
        found = [e for e in self._experiments.values() if e["name"] == name]
        return SimpleNamespace(**found[0]) if found else None

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        if self.get_experiment_by_name(name) is not None:
            raise _error(f"Experiment(name={name}) already exists.", "RESOURCE_ALREADY_EXISTS")
        experiment_id = str(len(self._experiments))
        self._do("experiment", experiment_id, name)
        return experiment_id

    def delete_experiment(self, experiment_id: str) -> None:
        self._do("delete_experiment", experiment_id)

    def search_experiments(self) -> list[Any]:
        self._catch_up()
        return [SimpleNamespace(**e) for e in self._experiments.values() if e["lifecycle_stage"] == "active"]

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
    ) -> Any:
        self._catch_up()
        if self._experiments[experiment_id]["lifecycle_stage"] != "active":
            raise _error("The experiment must be in the 'active' state.", "INVALID_PARAMETER_VALUE")
        run_id = os.urandom(16).hex()
        self._do("run", run_id, experiment_id, run_name, start_time, dict(tags or {}))
        return self.get_run(run_id)

    def get_run(self, run_id: str) -> Any:
        self._catch_up()
        if run_id not in self._runs:
            raise _error(f"Run with id={run_id} not found", "RESOURCE_DOES_NOT_EXIST")
        run = self._runs[run_id]
        info = SimpleNamespace(
            run_id=run_id,
            run_name=run.name,
            status=run.status,
            start_time=run.start_time,
            end_time=run.end_time,
            lifecycle_stage=run.stage,
            experiment_id=run.experiment_id,
        )
        metrics = {key: _latest(rows) for key, rows in run.metrics.items()}
        return SimpleNamespace(
            info=info,
            data=SimpleNamespace(tags=dict(run.tags), params=dict(run.params), metrics=metrics),
            inputs=SimpleNamespace(dataset_inputs=list(run.datasets)),
        )

    def search_runs(self, experiment_ids: Sequence[str], filter_string: str = "") -> list[Any]:
        """Return the runs for the only filter that the sink uses: one tag equals one value."""
        self._catch_up()
        wanted = re.fullmatch(r"tags\.`(.+)` = '(.+)'", filter_string)
        return [
            self.get_run(run_id)
            for run_id, run in self._runs.items()
            if run.experiment_id in experiment_ids
            and run.stage == "active"
            and (wanted is None or run.tags.get(wanted[1]) == wanted[2])
        ]

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        self._catch_up()
        return [
            SimpleNamespace(key=key, value=math.nan if nan else value, timestamp=time, step=step)
            for time, step, value, nan in self._runs[run_id].metrics.get(key, {})
        ]

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        synchronous: bool | None = None,
    ) -> None:
        assert synchronous, "values logged asynchronously may be lost"
        assert len(metrics) + len(params) + len(tags) <= 1000
        assert len(params) <= 100
        assert len(tags) <= 100
        for each in (*metrics, *params, *tags):
            check_name(each.key)
        self._check_active(run_id)
        stored = self._runs[run_id].params
        for param in params:
            if stored.get(param.key, param.value) != param.value:
                raise _error("Changing param values is not allowed.", "INVALID_PARAMETER_VALUE")
        rows = [[m.key, *_row(m)] for m in metrics]
        self._take(run_id, rows, {p.key: p.value[:6000] for p in params}, {t.key: t.value[:8000] for t in tags})

    def log_inputs(self, run_id: str, datasets: Sequence[Any]) -> None:
        self._check_active(run_id)
        self._do("inputs", run_id, [[d.dataset.name, d.dataset.digest, d.tags[0].value] for d in datasets])

    def update_run(self, run_id: str, status: str) -> None:
        self._check_active(run_id)
        self._do("status", run_id, status, self._runs[run_id].end_time)

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self._check_active(run_id)
        self._do("status", run_id, status, end_time)

    def delete_run(self, run_id: str) -> None:
        self._do("delete", run_id)

    def _check_active(self, run_id: str) -> None:
        self.get_run(run_id)
        if self._runs[run_id].stage != "active":
            raise _error(f"The run {run_id} must be in the 'active' state.", "INVALID_PARAMETER_VALUE")

    def _take(self, run_id: str, rows: list[list[Any]], params: dict[str, str], tags: dict[str, str]) -> None:
        self._do("batch", run_id, rows, params, tags)

    def _do(self, *change: Any) -> None:
        line = json.dumps(change).encode() + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(fd).st_size
            written = os.write(fd, line)
            if written < len(line):
                # Like a database, apply a change completely or not at all.
                os.ftruncate(fd, size)
                raise _error("(sqlite3.OperationalError) database or disk is full", "TEMPORARILY_UNAVAILABLE")
        finally:
            os.close(fd)
        self._catch_up()

    def _catch_up(self) -> None:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    self._read += len(line)
                    kind, *change = json.loads(line)
                    getattr(self, f"_did_{kind}")(*change)

    def _did_experiment(self, experiment_id: str, name: str) -> None:
        self._experiments[experiment_id] = {
            "experiment_id": experiment_id,
            "name": name,
            "lifecycle_stage": "active",
        }

    def _did_delete_experiment(self, experiment_id: str) -> None:
        self._experiments[experiment_id]["lifecycle_stage"] = "deleted"

    def _did_run(self, run_id: str, experiment_id: str, name: str, start: int, tags: dict[str, str]) -> None:
        self._runs[run_id] = _Run(experiment_id, name, start, tags=tags)

    def _did_batch(self, run_id: str, rows: list[list[Any]], params: dict[str, str], tags: dict[str, str]) -> None:
        run = self._runs[run_id]
        for key, *row in rows:
            run.metrics.setdefault(key, {})[tuple(row)] = None
        run.params |= params
        run.tags |= tags

    def _did_inputs(self, run_id: str, datasets: list[list[str]]) -> None:
        for each in datasets:
            self._runs[run_id].datasets[tuple(each)] = None

    def _did_status(self, run_id: str, status: str, end_time: int | None) -> None:
        self._runs[run_id].status, self._runs[run_id].end_time = status, end_time

    def _did_delete(self, run_id: str) -> None:
        self._runs[run_id].stage = "deleted"


class FaultyMlflow(FakeMlflow):
    """A fake client whose calls fail."""

    FAILURES = ("refused", "lost", "busy", "torn")

    def __init__(self, path: Path, fault: Fault) -> None:
        super().__init__(path)
        self._fault = fault
        self._tears = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return found if name.startswith("_") or not callable(found) else self._failing(name, found)

    def _failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            failure = self._fault(name)
            if failure == "refused":
                raise _error("API request failed with exception ... Connection refused", "INTERNAL_ERROR")
            if failure == "busy":
                raise _error("(sqlite3.OperationalError) database is locked", "TEMPORARILY_UNAVAILABLE")
            # Nested calls do not tear, so they leave the flag unchanged.
            if failure == "torn":
                self._tears = True
            try:
                answer = call(*args, **kwargs)
            finally:
                if failure == "torn":
                    self._tears = False
            if failure == "lost":
                raise _error("API request failed with timeout exception", "INTERNAL_ERROR")
            return answer

        return failing

    def _take(self, run_id: str, rows: list[list[Any]], params: dict[str, str], tags: dict[str, str]) -> None:
        if not self._tears:
            super()._take(run_id, rows, params, tags)
            return
        # Metrics are committed before tags.
        super()._take(run_id, rows, params, {})
        raise _error("(sqlite3.OperationalError) disk I/O error", "TEMPORARILY_UNAVAILABLE")


def fake_uri(folder: Path) -> str:
    """Return the tracking URI of a fake whose file is in the folder."""
    return f"http://fake{folder}/fake-mlflow.jsonl"


def fake_path(uri: str) -> Path:
    return Path(uri.removeprefix("http://fake"))


def _latest(rows: Iterable[tuple[int, int, float, bool]]) -> float:
    """Return the value that MLflow shows: that of the highest step, then the highest time, then the highest value."""
    _, _, value, nan = max(rows, key=lambda row: (row[1], row[0], row[2]))
    return math.nan if nan else value


def _row(metric: Any) -> list[Any]:
    nan = math.isnan(metric.value)
    value = 0.0 if nan else max(min(metric.value, 1.7976931348623157e308), -1.7976931348623157e308)
    return [metric.timestamp, metric.step, value, nan]


def check_name(name: str) -> None:
    path = posixpath.normpath(name)
    fits = _NAME.match(name) and path == name and path != "." and not path.startswith(("..", "/"))
    if not fits or len(name) > 250:
        raise _error(f"Invalid value {name!r} for parameter 'name' supplied", "INVALID_PARAMETER_VALUE")


def _error(text: str, code: str) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(text, error_code=ErrorCode.Value(code))
