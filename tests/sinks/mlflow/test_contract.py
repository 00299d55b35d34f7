"""The sink contract on the MLflow sink: with an SQLite store, with a server, and with a fake client that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow.sink import MlflowSink
from support.fake_mlflow import FakeMlflow, FaultyMlflow, fake_path, fake_uri
from support.mlflow_kit import (
    IGNORE_NOLOAD,
    SERVER,
    client_of,
    copy_store,
    find_runs,
    media_items,
    points,
    quiet,
    shared_server,
    shared_template,
)
from support.retries import RetryingSink
from telemetry import RunRecord
from telemetry.testing import MediaItem, Point, SinkContract
from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.kit import Kit
from telemetry.testing.points import sample
from telemetry.testing.restart_checks import RestartChecks

pytestmark = IGNORE_NOLOAD


class MlflowKit(Kit):
    """A kit that reads runs back from MLflow."""

    # MLflow cannot remove points.
    rewinds = "kept"

    def read_back(self, run: RunRecord, folder: Path) -> Iterable[Point]:
        with quiet():
            client = self.client(folder)
            for found in find_runs(client, run):
                if self.is_in(client, found, folder):
                    yield from points(client, found)

    def read_back_media(self, run: RunRecord, folder: Path) -> Iterable[MediaItem]:
        with quiet():
            client = self.client(folder)
            for found in find_runs(client, run):
                if self.is_in(client, found, folder):
                    yield from media_items(client, found)

    def shown_media(self, item: MediaItem) -> MediaItem:
        if item.kind != "table":
            return item
        head, rows = item.content
        return item._replace(content=(head, tuple(tuple(map(str, row)) for row in rows)))

    def client(self, folder: Path) -> Any:
        raise NotImplementedError

    def is_in(self, client: Any, run: Any, folder: Path) -> bool:
        return True


class TestOnAnSqliteStore(MlflowKit, SinkContract):
    """The default: a file next to the run folders."""

    @pytest.fixture(autouse=True)
    def _template(self, request: pytest.FixtureRequest) -> None:
        shared_template(request.config)

    def make_sink(self, folder: Path) -> MlflowSink:
        copy_store(folder.parent)
        return MlflowSink(MlflowSink.Options())

    def client(self, folder: Path) -> Any:
        return client_of(f"sqlite:///{folder.parent}/mlflow.db")

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:
        file = folder.parent / "mlflow.db"
        yield replaced(file, file.mkdir)
        yield replaced(file, lambda: file.write_text("this is not a database" * 100))


class TestOnAServer(MlflowKit, SinkContract):
    """Each test has its own experiment."""

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
def replaced(file: Path, create: Callable[[], object]) -> Iterator[None]:
    """Replace a file temporarily."""
    aside = file.with_name("aside")
    file.rename(aside)
    create()
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


class PeriodicFaults:
    """Faults of every third call, cycling through the kinds of failure; of every call while ``down``."""

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
        failure = FaultyMlflow.FAILURES[self.calls // 3 % len(FaultyMlflow.FAILURES)]
        self.failed.add(failure)
        return failure


FAULTS = PeriodicFaults()


@contextmanager
def down() -> Iterator[None]:
    FAULTS.down = True
    try:
        yield
    finally:
        FAULTS.down = False


class FailingSink(MlflowSink):
    """The sink with a fake client whose calls fail periodically."""

    connect = staticmethod(lambda uri: FaultyMlflow(fake_path(uri), FAULTS))


class WorkingSink(MlflowSink):
    """The sink with a fake client that fails only while it is down."""

    connect = staticmethod(lambda uri: FaultyMlflow(fake_path(uri), lambda _: "refused" if FAULTS.down else None))


class FakeKit(MlflowKit):
    """A kit that reads runs back from a fake, whose file is next to the run folders."""

    def client(self, folder: Path) -> Any:
        return FakeMlflow(fake_path(fake_uri(folder.parent)))

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:
        yield down()


class TestOnAFake(FakeKit, ContentChecks, RestartChecks, FaultChecks):
    """The part of the contract that concerns the client; the rest is checked above."""

    def make_sink(self, folder: Path) -> WorkingSink:
        return WorkingSink(WorkingSink.Options(tracking_uri=fake_uri(folder.parent)))


class TestOnAFailingFake(FakeKit, ContentChecks, RestartChecks, FaultChecks):
    """With retries, a run is written through all failures as it is without any."""

    def make_sink(self, folder: Path) -> RetryingSink:
        return RetryingSink(lambda: FailingSink(MlflowSink.Options(tracking_uri=fake_uri(folder.parent))))

    def test_calls_have_failed_in_each_way(self, tmp_path: Path) -> None:
        driver = self.open_sink(tmp_path / "run")
        for first in range(1, 100, 5):
            driver.write(sample(first, first + 4))
        assert FAULTS.failed == set(FaultyMlflow.FAILURES)
