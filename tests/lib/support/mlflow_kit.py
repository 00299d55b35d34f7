"""Open the MLflow sink, provide stores and servers for it, and read runs back.

Only ``shared_template`` needs more than mlflow-skinny.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import html
import io
import math
import os
import re
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
from telemetry.testing import MediaItem, Point
from telemetry.testing.points import run_record

# Issued by SQLAlchemy 2.1 for MLflow's own tables.
IGNORE_NOLOAD = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
TEMPLATE = "TEST_MLFLOW_TEMPLATE"
SERVER = "TEST_MLFLOW_SERVER"
"""Environment variables for other processes: the file of the template store, and the URL of the server."""
_FILE, _URL = pytest.StashKey[Path](), pytest.StashKey[str]()
START_TIMEOUT = 120.0
"""Seconds for a server to start."""


def shared_template(config: pytest.Config) -> Path:
    """Return an empty store to copy, created once because that takes seconds."""
    if _FILE not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="mlflow-template-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        client_of(f"sqlite:///{folder / 'mlflow.db'}")
        config.stash[_FILE] = folder / "mlflow.db"
        os.environ[TEMPLATE] = str(folder / "mlflow.db")
    return config.stash[_FILE]


def shared_server(config: pytest.Config) -> str:
    """Return the URL of a server, started once because that takes seconds."""
    if _URL not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="mlflow-server-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        server = Server(folder)
        config.add_cleanup(server.kill)
        config.stash[_URL] = os.environ[SERVER] = server.start()
    return config.stash[_URL]


def copy_store(folder: Path) -> str:
    """Copy the template store into a folder unless it already contains a store; return its URI."""
    file = folder / "mlflow.db"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.environ[TEMPLATE], file)
    return f"sqlite:///{file}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Set MLflow's environment for a test's own calls: no internet access, no retries, no pooled connections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        yield


def client_of(uri: str) -> Any:
    """Return a client that reads runs back."""
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(uri)


def open_sink(folder: Path, run: RunRecord | None = None, **options: Any) -> tuple[MlflowSink, Opened]:
    """Open a new instance on the run in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sink = MlflowSink(MlflowSink.Options(**options))
    return sink, sink.sink_open(run or run_record(folder.name), folder)


def find_runs(client: Any, run: RunRecord | None = None) -> list[Any]:
    """Return all runs of a store, or those with the key of the given run."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    has_key = "" if run is None else f"tags.`telemetry.key` = '{run_key(run)}'"
    return list(client.search_runs(experiments, filter_string=has_key))


def only_run(client: Any) -> Any:
    """Return the only run of a store."""
    (run,) = find_runs(client)
    return run


def history(client: Any, run_id: str, key: str = "train/loss") -> list[tuple[int, float, int]]:
    """Return (step, value, time in ms) of each point of a metric, ordered by time."""
    points = client.get_metric_history(run_id, key)
    # MLflow does not keep the order in which they were logged.
    return [(p.step, p.value, p.timestamp) for p in sorted(points, key=lambda p: (p.timestamp, p.step))]


def points(client: Any, run: Any) -> Iterator[Point]:
    """Yield all points of a run with their original names and values."""
    tags, units = run.data.tags, shown_units(run)
    for key in run.data.metrics:
        if not key.endswith(".inf") and not key.startswith("best/"):
            name = tags.get(f"name.{key}", key)
            signs = {
                (step, when): value
                for step, value, when in (
                    history(client, run.info.run_id, f"{key}.inf") if f"{key}.inf" in run.data.metrics else ()
                )
            }
            for step, value, when in history(client, run.info.run_id, key):
                sign = signs.get((step, when))
                original = value if sign is None else math.copysign(math.inf, sign)
                yield Point(name, step, original, when, units.get(name, "1"))


def artifact_files(client: Any, run_id: str, path: str | None = None) -> dict[str, bytes]:
    """Return the content of each artifact of a run, by path."""
    found: dict[str, bytes] = {}
    for each in client.list_artifacts(run_id, path):
        if each.is_dir:
            found |= artifact_files(client, run_id, each.path)
        else:
            found[each.path] = Path(client.download_artifacts(run_id, each.path)).read_bytes()
    return found


def media_items(client: Any, run: Any) -> Iterator[MediaItem]:
    """Yield the media of a run; all values of tables are texts."""
    for path, content in artifact_files(client, run.info.run_id).items():
        kind, _, rest = path.partition("/")
        if kind == "images":
            key, _, step, *_ = rest.split("+")
            if "+compressed" not in rest:
                yield MediaItem("image", key.replace("~", "/"), int(step), content)
        else:
            where = rest.rpartition("/")[0] if kind == "artifacts" else rest
            name, _, last = where.rpartition("/")
            yield MediaItem(kind[:-1], name, int(last.partition("-")[0]), _media_content(kind, content))


def _media_content(kind: str, content: bytes) -> Any:
    if kind == "texts":
        return content.decode()
    if kind == "artifacts":
        return content
    head, *rows = csv.reader(io.StringIO(content.decode()))
    if kind == "tables":
        return tuple(head), tuple(map(tuple, rows))
    bins = [tuple(map(float, row)) for row in rows]
    return (*(row[0] for row in bins), bins[-1][1]), tuple(row[2] for row in bins)


def shown_units(run: Any) -> dict[str, str]:
    """Return the units in the table of the description, by full name of the metric."""
    note = run.data.tags["mlflow.note.content"].partition("| metric | unit | what | streams |")[2]
    units: dict[str, str] = {}
    for line in note.splitlines()[2:]:
        cells = [html.unescape(re.sub(r"\\(.)", r"\1", cell.strip())) for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) > 4:
            _, name, unit, _, streams, _ = cells
            units |= {f"{stream}/{name}": unit or "1" for stream in streams.split(", ")}
    return units


class InterceptingClient:
    """A client with replaced methods, each of which gets the real client as its first argument."""

    def __init__(self, client: Any, **replaced: Callable[..., Any]) -> None:
        self._client, self._replaced = client, replaced

    def __getattr__(self, name: str) -> Any:
        if name in self._replaced:
            return functools.partial(self._replaced[name], self._client)
        return getattr(self._client, name)


def open_sink_with(
    folder: Path, run: RunRecord | None = None, **replaced: Callable[..., Any]
) -> tuple[MlflowSink, Opened]:
    """Open a new instance whose client has replaced methods."""
    sink = MlflowSink(MlflowSink.Options())
    sink.connect = lambda uri: InterceptingClient(MlflowSink.connect(uri), **replaced)
    return sink, sink.sink_open(run or run_record(folder.name), folder)


def rejection(text: str = "Invalid value") -> Exception:
    """Return the error of a call that MLflow always rejects."""
    from mlflow.exceptions import MlflowException

    error: Exception = MlflowException.invalid_parameter_value(text)
    return error


class Server:
    """An ``mlflow server`` on 127.0.0.1, which can be killed and started again.

    Args:
        folder: the folder of its artifacts and log.
        store: the URI of its store; by default an SQLite file in ``folder``.
    """

    def __init__(self, folder: Path, store: str = "") -> None:
        self._folder = folder
        self._store = store or f"sqlite:///{folder}/server.db"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it, wait until it answers, and return its URL."""
        binary = os.environ.get("MLFLOW_SERVER_BIN") or str(Path(sys.executable).with_name("mlflow"))
        arguments = ["--backend-store-uri", self._store, "--workers", "1"]
        arguments += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "server", "--host", "127.0.0.1", "--port", str(self.port), *arguments],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                # A separate process group, so that its workers can be killed with it.
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(f"{url}/health"):
            log_text = (self._folder / "log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, f"no server after {START_TIMEOUT} s: {log_text}"
            threading.Event().wait(0.2)
        return url

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
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - the test's own server
            return True
    except OSError:
        return False
