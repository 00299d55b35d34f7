"""The W&B sink keeps the contract: with wandb's own files, and against a server that speaks its protocol."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from wandb_kit import config, points, rows
from wandb_server import Fault, WandbServer

from sinks import wandb_sink
from sinks.wandb_sink import WandbSink
from telemetry.testing import Point, SinkContract

# Runs that are dropped without a word leave threads of wandb's, which complain when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


class WandbContract(SinkContract):
    # wandb writes what it has in memory when there is enough of it, and W&B's history only grows.
    durable_on_write = False
    rewinds = "kept"


class TestOffline(WandbContract):
    # Where `wandb clean` may have removed files, nobody can tell what was in them.
    tells_last_seq = False

    def make_sink(self, folder: Path) -> WandbSink:
        return WandbSink(WandbSink.Options(mode="offline"))

    def read_back(self, folder: Path) -> list[Point]:
        return points(rows(folder), config(folder).get("telemetry/units", {}))


class TestOnline(WandbContract):
    server: WandbServer

    @pytest.fixture(autouse=True)
    def _server(self, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
        type(self).server = wandb_server
        monkeypatch.setattr(wandb_sink, "_FINISH_TIMEOUT", 2.0)
        monkeypatch.setattr(wandb_sink, "_INIT_TIMEOUT", 2.0)

    def make_sink(self, folder: Path) -> WandbSink:
        return WandbSink(WandbSink.Options(mode="online"))

    def make_elsewhere(self, folder: Path) -> WandbSink:
        return WandbSink(WandbSink.Options(mode="online", project="elsewhere"))

    def read_back(self, folder: Path) -> list[Point]:
        found = [
            run
            for (project, _), run in self.server.runs.items()
            if project != "elsewhere" and run.config["telemetry/run"]["value"]["id"] == folder.name
        ]
        return [p for run in found for p in points(run.history, run.config["telemetry/units"]["value"])]

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[None]]:
        return [self._fault(Fault(how)) for how in (401, 404, 500, "cut")]

    @contextmanager
    def _fault(self, fault: Fault) -> Iterator[None]:
        self.server.fail(fault)
        try:
            yield
        finally:
            self.server.fail(None)
