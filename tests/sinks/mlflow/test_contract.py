"""The MLflow sink keeps the contract of telemetry's sinks: on an SQLite store, on a server, on a fake that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow_sink import MlflowSink
from support.fake_mlflow import FakeMlflow, FaultyMlflow, fake_path, fake_uri
from support.mlflow_kit import (
    IGNORE_NOLOAD,
    SERVER,
    client_of,
    find_runs,
    points,
    put_store,
    quiet,
    shared_server,
    shared_template,
)
from support.retries import TriedAgain
from telemetry.testing import Point, SinkContract
from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.kit import Kit
from telemetry.testing.points import run_record, sample
from telemetry.testing.restart_checks import RestartChecks

pytestmark = IGNORE_NOLOAD


class Shown(Kit):
    """How MLflow shows a run."""

    # It cannot take points back.
    rewinds = "kept"

    def read_back(self, folder: Path) -> Iterable[Point]:
        with quiet():
            client = self.client(folder)
            for run in find_runs(client, run_record(folder.name)):
                if self.is_in(client, run, folder):
                    yield from points(client, run)

    def client(self, folder: Path) -> Any:
        raise NotImplementedError

    def is_in(self, client: Any, run: Any, folder: Path) -> bool:
        return True


class TestOnAnSqliteStore(Shown, SinkContract):
    """As it is without options, in a file beside the run folders."""

    @pytest.fixture(autouse=True)
    def _template(self, request: pytest.FixtureRequest) -> None:
        shared_template(request.config)

    def make_sink(self, folder: Path) -> MlflowSink:
        put_store(folder.parent)
        return MlflowSink(MlflowSink.Options())

    def client(self, folder: Path) -> Any:
        return client_of(f"sqlite:///{folder.parent}/mlflow.db")

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:
        file = folder.parent / "mlflow.db"
        yield replaced(file, file.mkdir)
        yield replaced(file, lambda: file.write_text("no database, whatever it is called" * 100))


class TestOnAServer(Shown, SinkContract):
    """Each test's runs are in experiments of their own."""

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_server(request.config))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

    def make_sink(self, folder: Path) -> MlflowSink:
        return MlflowSink(MlflowSink.Options(experiment=str(folder.parent)))

    def client(self, folder: Path) -> Any:
        return client_of(os.environ[SERVER])

    def is_in(self, client: Any, run: Any, folder: Path) -> bool:
        return str(client.get_experiment(run.info.experiment_id).name) == str(folder.parent)

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:
        yield elsewhere("http://127.0.0.1:1")


@contextmanager
def replaced(file: Path, put: Callable[[], object]) -> Iterator[None]:
    """Put something else where a file is, for a time."""
    aside = file.with_name("aside")
    file.rename(aside)
    put()
    try:
        yield
    finally:
        file.rmdir() if file.is_dir() else file.unlink()
        aside.rename(file)


@contextmanager
def elsewhere(uri: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield


class Stumbles:
    """Says which calls fail, each in the way whose turn it is."""

    def __init__(self) -> None:
        self.calls = 0
        self.failed: set[str] = set()
        self.down = False

    def __call__(self, name: str) -> str | None:
        if self.down:
            return "refused"
        if name not in {"log_batch", "create_run", "search_runs", "update_run", "set_terminated"}:
            return None
        self.calls += 1
        if self.calls % 3:
            return None
        way = FaultyMlflow.WAYS[self.calls // 3 % len(FaultyMlflow.WAYS)]
        self.failed.add(way)
        return way


STUMBLES = Stumbles()


@contextmanager
def down() -> Iterator[None]:
    STUMBLES.down = True
    try:
        yield
    finally:
        STUMBLES.down = False


class StumblingSink(MlflowSink):
    """The sink, on a fake of which each third call fails."""

    connect = staticmethod(lambda uri: FaultyMlflow(fake_path(uri), STUMBLES))


class GoodSink(MlflowSink):
    """The sink, on a fake that fails only when it is down."""

    connect = staticmethod(lambda uri: FaultyMlflow(fake_path(uri), lambda _: "refused" if STUMBLES.down else None))


class Faked(Shown):
    """On a fake, whose file is beside the run folders."""

    def client(self, folder: Path) -> Any:
        return FakeMlflow(fake_path(fake_uri(folder.parent)))

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:
        yield down()


class TestOnAFake(Faked, ContentChecks, RestartChecks, FaultChecks):
    """The sink itself is held to the rest of the contract above."""

    def make_sink(self, folder: Path) -> GoodSink:
        return GoodSink(GoodSink.Options(tracking_uri=fake_uri(folder.parent)))


class TestOnAFailingFake(Faked, ContentChecks, RestartChecks, FaultChecks):
    """What is written through all failures is what is written without any."""

    def make_sink(self, folder: Path) -> TriedAgain:
        return TriedAgain(lambda: StumblingSink(MlflowSink.Options(tracking_uri=fake_uri(folder.parent))))

    def test_its_calls_fail_in_all_ways(self, tmp_path: Path) -> None:
        driver = self.open_sink(tmp_path / "run")
        for first in range(1, 100, 5):
            driver.write(sample(first, first + 4))
        assert STUMBLES.failed == set(FaultyMlflow.WAYS)
