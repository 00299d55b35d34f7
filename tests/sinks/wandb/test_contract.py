"""The W&B sink keeps the contract: with wandb's own files, against a server that speaks its protocol, on a fake."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from sinks.wandb import sink as wandb_sink
from sinks.wandb.sink import WandbSink
from support.fake_wandb import WAYS, FakeWandb, install
from support.retries import persist
from support.wandb_kit import config, points, rows
from support.wandb_server import Fault, WandbServer
from telemetry import RunRecord, Status
from telemetry.sink_api import Opened, Record, SinkUnavailable, hookimpl
from telemetry.testing import Point, SinkContract
from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.kit import Kit
from telemetry.testing.points import sample
from telemetry.testing.restart_checks import RestartChecks

T = TypeVar("T")

# Runs that are dropped without a word leave threads of wandb's, which complain when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


class Shown(Kit):
    # wandb writes what it has in memory when there is enough of it, and W&B's history only grows.
    durable_on_write = False
    rewinds = "kept"


class ShownInFiles(Shown):
    # Where `wandb clean` may have removed files, nobody can tell what was in them.
    tells_last_seq = False

    def read_back(self, folder: Path) -> list[Point]:
        return points(rows(folder), config(folder).get("telemetry/units", {}))


class TestOffline(ShownInFiles, SinkContract):
    def make_sink(self, folder: Path) -> WandbSink:
        return WandbSink(WandbSink.Options(mode="offline"))

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[None]]:
        return [a_file_in_place_of(folder / "wandb")]


@contextmanager
def a_file_in_place_of(folder: Path) -> Iterator[None]:
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


class TestOnline(Shown, SinkContract):
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


STUMBLES_AT = {"log": (401, WAYS[:2]), "init": (5, WAYS), "finish": (3, WAYS)}
"""Which calls fail: each how manieth, and how."""


class Stumbles:
    """Says which calls fail, each in the way whose turn it is."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failed: set[tuple[str, str]] = set()

    def __call__(self, name: str) -> str | None:
        if name not in STUMBLES_AT:
            return None
        self.calls[name] += 1
        every, ways = STUMBLES_AT[name]
        turn, rest = divmod(self.calls[name], every)
        if rest:
            return None
        way = ways[turn % len(ways)]
        self.failed.add((name, way))
        return way


class TriedAgain:
    """A sink of which a new instance is opened after each failure, and given what follows, as delivery does."""

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self._run, self._folder, self._durable = run, folder, 0
        self._given: list[Record] = []
        return persist(self._open)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int | None:
        self._given += records
        return self._persist(lambda: self._write_from(records[0].seq if records else 1 << 62))

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        self._persist(lambda: self._sink.sink_close(status, reason))

    def _persist(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SinkUnavailable:
            return persist(lambda: (self._open(), self._write_from(self._durable + 1), call())[2])

    def _write_from(self, seq: int) -> int | None:
        durable = self._sink.sink_write([record for record in self._given if record.seq >= seq])
        self._durable = max(self._durable, durable or 0)
        return durable

    def _open(self) -> Opened:
        sink = WandbSink(WandbSink.Options(mode="offline"))
        found = sink.sink_open(self._run, self._folder)
        self._sink = sink
        self._durable = self._durable if found.last_seq is None else found.last_seq
        return found


class Faked(ShownInFiles, ContentChecks, RestartChecks):
    """The sink itself is held to the rest of the contract above."""

    @pytest.fixture(autouse=True)
    def _install(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        wandb = self.wandb()
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        yield
        with contextlib.suppress(ConnectionResetError, TimeoutError):
            wandb.teardown()

    def wandb(self) -> FakeWandb:
        return FakeWandb()

    def install(self) -> None:
        # In a process of its own there are no fixtures.
        if not isinstance(sys.modules["wandb"], FakeWandb):
            install(self.wandb())


class TestOnAFake(Faked, FaultChecks):
    def make_sink(self, folder: Path) -> WandbSink:
        self.install()
        return WandbSink(WandbSink.Options(mode="offline"))


class TestOnAFailingFake(Faked):
    """What is written through all failures is what is written without any."""

    def wandb(self) -> FakeWandb:
        return FakeWandb(STUMBLES)

    def make_sink(self, folder: Path) -> TriedAgain:
        self.install()
        return TriedAgain()

    def test_its_calls_fail_in_all_ways(self, tmp_path: Path) -> None:
        for last in range(100, 2000, 100):
            self.deliver(tmp_path / "run", sample(1, last))
        assert STUMBLES.failed == {(name, way) for name, (_, ways) in STUMBLES_AT.items() for way in ways}


STUMBLES = Stumbles()
