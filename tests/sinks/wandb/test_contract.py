"""The sink contract on the W&B sink: with offline files, with a test server, and with a fake wandb."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from sinks.wandb.run_config import identity
from sinks.wandb.sink import WandbSink
from sinks.wandb.timeouts import Timeouts
from support.fake_wandb import FAILURES, FakeWandb, install
from support.retries import retry
from support.wandb_kit import artifact_items, config, media_items, points, rows
from support.wandb_server import Fault, Run, WandbServer
from telemetry import RunRecord, Status
from telemetry.sink_api import Opened, Record, SinkUnavailable, hookimpl
from telemetry.testing import MediaItem, Point, SinkContract
from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.kit import Kit
from telemetry.testing.points import sample
from telemetry.testing.restart_checks import RestartChecks

T = TypeVar("T")

# Runs that were never finished leave threads of wandb, which raise errors when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


class WandbKit(Kit):
    # wandb buffers rows in memory, and W&B's history is append-only.
    durable_on_write = False
    rewinds = "kept"

    def shown_media(self, item: MediaItem) -> MediaItem:
        return item._replace(name=item.name.replace("/", "-")) if item.kind == "artifact" else item


class OfflineKit(WandbKit):
    # `wandb clean` may have removed files with rows.
    tells_last_seq = False

    def read_back(self, folder: Path) -> list[Point]:
        return points(rows(folder), config(folder).get("telemetry/units", {}))

    def read_back_media(self, folder: Path) -> list[MediaItem]:
        return [*media_items(folder, rows(folder)), *artifact_items(folder)]


class TestOffline(OfflineKit, SinkContract):
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


class TestOnline(WandbKit, SinkContract):
    server: WandbServer
    timeouts = Timeouts()

    @pytest.fixture(autouse=True)
    def _server(self, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
        type(self).server = wandb_server
        # In this process only: the kills in other processes would be slowed down by a failing init.
        monkeypatch.setattr(type(self), "timeouts", Timeouts(init=2.0, finish=2.0))

    def make_sink(self, folder: Path) -> WandbSink:
        return self.with_timeouts(WandbSink.Options(mode="online"))

    def make_elsewhere(self, folder: Path) -> WandbSink:
        return self.with_timeouts(WandbSink.Options(mode="online", project="elsewhere"))

    def with_timeouts(self, options: WandbSink.Options) -> WandbSink:
        sink = WandbSink(options)
        sink.timeouts = self.timeouts
        # The server does not store the artifacts.
        sink.media = tuple(kind for kind in sink.media if kind != "artifact")
        return sink

    def read_back(self, run: RunRecord, folder: Path) -> list[Point]:
        found = self._runs(run)
        return [p for each in found for p in points(each.history, each.config["telemetry/units"]["value"])]

    def read_back_media(self, run: RunRecord, folder: Path) -> list[MediaItem]:
        return [item for each in self._runs(run) for item in media_items(folder, each.history)]

    def _runs(self, run: RunRecord) -> list[Run]:
        return [
            each
            for (project, _), each in self.server.runs.items()
            if project != "elsewhere" and identity(run).items() <= each.config["telemetry/run"]["value"].items()
        ]

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[None]]:
        return [self._fault(Fault(how)) for how in (401, 404, 500, "cut")]

    @contextmanager
    def _fault(self, fault: Fault) -> Iterator[None]:
        self.server.fail(fault)
        try:
            yield
        finally:
            self.server.fail(None)


PERIODS = {"log": (401, FAILURES[:2]), "init": (5, FAILURES), "finish": (3, FAILURES)}
"""The period after which each call fails, and the failures to cycle through."""


class PeriodicFaults:
    """Periodic faults of calls, cycling through the kinds of failure."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failed: set[tuple[str, str]] = set()

    def __call__(self, name: str) -> str | None:
        if name not in PERIODS:
            return None
        self.calls[name] += 1
        period, failures = PERIODS[name]
        turn, rest = divmod(self.calls[name], period)
        if rest:
            return None
        failure = failures[turn % len(failures)]
        self.failed.add((name, failure))
        return failure


class RetryingSink:
    """A sink that opens a new instance after each failure, and writes the records after the last durable one to it."""

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self._run, self._folder, self._durable = run, folder, 0
        self._received: list[Record] = []
        return retry(self._open)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int | None:
        self._received += records
        return self._retry(lambda: self._write_from(records[0].seq if records else 1 << 62))

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        self._retry(lambda: self._sink.sink_close(status, reason))

    def _retry(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SinkUnavailable:
            return retry(lambda: (self._open(), self._write_from(self._durable + 1), call())[2])

    def _write_from(self, seq: int) -> int | None:
        durable = self._sink.sink_write([record for record in self._received if record.seq >= seq])
        self._durable = max(self._durable, durable or 0)
        return durable

    def _open(self) -> Opened:
        sink = WandbSink(WandbSink.Options(mode="offline"))
        found = sink.sink_open(self._run, self._folder)
        self._sink = sink
        self._durable = self._durable if found.last_seq is None else found.last_seq
        return found


class FakeKit(OfflineKit, ContentChecks, RestartChecks):
    """The part of the contract that concerns wandb; the rest is checked above."""

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
        # Other processes do not have the fixture.
        if not isinstance(sys.modules["wandb"], FakeWandb):
            install(self.wandb())


class TestOnAFake(FakeKit, FaultChecks):
    def make_sink(self, folder: Path) -> WandbSink:
        self.install()
        sink = WandbSink(WandbSink.Options(mode="offline"))
        # The fake writes its rows before `finish` returns, or never.
        sink.timeouts = Timeouts(stored=0.1)  # type: ignore[misc]
        return sink


class TestOnAFailingFake(FakeKit):
    """With retries, a run is written through all failures as it is without any."""

    def wandb(self) -> FakeWandb:
        return FakeWandb(FAULTS)

    def make_sink(self, folder: Path) -> RetryingSink:
        self.install()
        return RetryingSink()

    def test_each_call_has_failed_in_each_way(self, tmp_path: Path) -> None:
        for last in range(100, 2000, 100):
            self.deliver(tmp_path / "run", sample(1, last))
        assert FAULTS.failed == {(name, failure) for name, (_, failures) in PERIODS.items() for failure in failures}


FAULTS = PeriodicFaults()
