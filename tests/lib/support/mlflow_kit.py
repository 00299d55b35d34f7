"""Runs to write, MLflow's stores and servers to write them to, and the way to read them back.

It needs nothing that mlflow-skinny lacks, but for ``shared_template``.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from sinks.mlflow.sink import MlflowSink
from sinks.mlflow.tags import run_key
from support.ports import free_port
from telemetry import RunRecord
from telemetry.sink_api import Opened
from telemetry.testing import Point
from telemetry.testing.points import run_record

# SQLAlchemy 2.1 says so of MLflow's own tables.
IGNORE_NOLOAD = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
TEMPLATE = "TEST_MLFLOW_TEMPLATE"
SERVER = "TEST_MLFLOW_SERVER"
"""The variables that tell other processes where the template of a store and the server are."""
_FILE, _ADDRESS = pytest.StashKey[Path](), pytest.StashKey[str]()
START_TIME = 120.0
"""Seconds that a server may take to start."""


def shared_template(config: pytest.Config) -> Path:
    """Make a store with nothing in it, once: it takes seconds, and can be copied."""
    if _FILE not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="mlflow-template-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        client_of(f"sqlite:///{folder / 'mlflow.db'}")
        config.stash[_FILE] = folder / "mlflow.db"
        os.environ[TEMPLATE] = str(folder / "mlflow.db")
    return config.stash[_FILE]


def shared_server(config: pytest.Config) -> str:
    """Start a server, once: it takes seconds. Give its address."""
    if _ADDRESS not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="mlflow-server-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        server = Server(folder)
        config.add_cleanup(server.kill)
        config.stash[_ADDRESS] = os.environ[SERVER] = server.start()
    return config.stash[_ADDRESS]


def put_store(folder: Path) -> str:
    """Put a store into a folder unless there is one; give its URI."""
    file = folder / "mlflow.db"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.environ[TEMPLATE], file)
    return f"sqlite:///{file}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow from the internet, and from waiting long, in what a test itself asks it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        yield


def client_of(uri: str) -> Any:
    """Give a client, to look at what a sink has done."""
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(uri)


def opened(folder: Path, run: RunRecord | None = None, **options: Any) -> tuple[MlflowSink, Opened]:
    """Open a new instance on the run in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sink = MlflowSink(MlflowSink.Options(**options))
    return sink, sink.sink_open(run or run_record(folder.name), folder)


def find_runs(client: Any, run: RunRecord | None = None) -> list[Any]:
    """Give the runs of a store, or those that stand for one run."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    wanted = "" if run is None else f"tags.`telemetry.key` = '{run_key(run)}'"
    return list(client.search_runs(experiments, filter_string=wanted))


def the_run(client: Any) -> Any:
    """Give the only run of a store."""
    (run,) = find_runs(client)
    return run


def history(client: Any, run_id: str, key: str = "train/loss") -> list[tuple[int, float, int]]:
    """Give (step, value, time) of each point of a metric, in the order of their times."""
    points = client.get_metric_history(run_id, key)
    # MLflow does not keep the order of their coming.
    return [(p.step, p.value, p.timestamp) for p in sorted(points, key=lambda p: (p.timestamp, p.step))]


def points(client: Any, run: Any) -> Iterator[Point]:
    """Give all points of a run, under the names and with the values that it was given."""
    tags = run.data.tags
    for key in run.data.metrics:
        if not key.endswith(".inf"):
            name = tags.get(f"name.{key}", key)
            signs = {
                (step, when): value
                for step, value, when in (
                    history(client, run.info.run_id, f"{key}.inf") if f"{key}.inf" in run.data.metrics else ()
                )
            }
            for step, value, when in history(client, run.info.run_id, key):
                sign = signs.get((step, when))
                told = value if sign is None else math.copysign(math.inf, sign)
                yield Point(name, step, told, when, tags.get(f"unit.{key}", "1"))


class Between:
    """A client of which some calls are made by something else, which is given the client first."""

    def __init__(self, client: Any, **instead: Callable[..., Any]) -> None:
        self._client, self._instead = client, instead

    def __getattr__(self, name: str) -> Any:
        if name in self._instead:
            return functools.partial(self._instead[name], self._client)
        return getattr(self._client, name)


def opened_between(
    folder: Path, run: RunRecord | None = None, **instead: Callable[..., Any]
) -> tuple[MlflowSink, Opened]:
    """Open a new instance some of whose calls are made by something else."""
    sink = MlflowSink(MlflowSink.Options())
    sink.connect = lambda uri: Between(MlflowSink.connect(uri), **instead)
    return sink, sink.sink_open(run or run_record(folder.name), folder)


def refusal(text: str = "Invalid value") -> Exception:
    """Give the error of a call that MLflow will never take."""
    from mlflow.exceptions import MlflowException

    error: Exception = MlflowException.invalid_parameter_value(text)
    return error


class Server:
    """An ``mlflow server`` on 127.0.0.1, with an SQLite store in ``folder``; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it, wait until it answers, and give its address."""
        binary = os.environ.get("MLFLOW_SERVER_BIN") or str(Path(sys.executable).with_name("mlflow"))
        arguments = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db", "--workers", "1"]
        arguments += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "server", "--host", "127.0.0.1", "--port", str(self._port), *arguments],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                # Its workers are ended with it.
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{self._port}"
        deadline = time.monotonic() + START_TIME
        while not _answers(f"{address}/health"):
            said = (self._folder / "log").read_text()
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, f"no server after {START_TIME} s: {said}"
            threading.Event().wait(0.2)
        return address

    def kill(self) -> None:
        """Kill it and its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - the address is the test's own server
            return True
    except OSError:
        return False
