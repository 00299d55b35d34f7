"""The W&B sink against a server that speaks wandb's protocol, and fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sinks.wandb import sink as wandb_sink
from sinks.wandb.destinations import Server
from support.wandb_kit import cores, deliver, in_a_row, opened, wait_for
from support.wandb_server import Fault, Run, WandbServer
from telemetry import Alert, Metric, Settings, open_run
from telemetry.delivery.delivery import Delivery, End
from telemetry.delivery.receipt import read_receipt
from telemetry.plugins.registry import select
from telemetry.recording.bus import MetricBus
from telemetry.run_folder.sink_progress import read_progress
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import STARTED, sample, scalars

# Runs that are dropped without a word leave threads of wandb's, which complain when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture(autouse=True)
def _short(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_sink, "_FINISH_TIMEOUT", 2.0)
    monkeypatch.setattr(wandb_sink, "_INIT_TIMEOUT", 2.0)
    monkeypatch.setattr("sinks.wandb.server._TIMEOUT", 2.0)


@contextmanager
def asking_always() -> Iterator[None]:
    """The server is asked at each write what it holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "every", 0.0)
        yield


def the_run(server: WandbServer) -> Run:
    (run,) = server.runs.values()
    return run


def shown(server: WandbServer) -> list[int]:
    return [row["telemetry/seq"] for row in the_run(server).history]


class TestRuns:
    def test_rows_configuration_end_and_alerts_are_on_the_server(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        alert = Alert(seq=3, time=STARTED, step=20, title="loss is NaN", level="error")
        options: dict[str, Any] = {"project": "p", "group": "g", "tags": ["a"], "notes": "n", "name": "shown so"}
        deliver(tmp_path, [scalars(1, 10, loss=0.5), scalars(2, 20), alert], "failed", mode="online", **options)
        run = the_run(wandb_server)
        first = run.history[0]
        assert (first["train/loss"], first["trainer/iteration"], first["_step"]) == (0.5, 10, 0)
        assert first["_timestamp"] == (STARTED + 1001) / 1000
        assert run.config["seed"]["value"] == 7
        assert run.config["telemetry/units"]["value"]["train/E_rmse"] == "kcal/mol"
        assert (run.project, run.exit_code, run.summary["telemetry/status"]) == ("p", 1, "failed")
        told = {name: run.fields[name] for name in ("groupName", "tags", "notes", "displayName")}
        assert told == {"groupName": "g", "tags": ["a"], "notes": "n", "displayName": "shown so"}
        assert [alert["title"] for alert in wandb_server.alerts] == ["loss is NaN"]

    def test_closing_again_sends_nothing(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        given = [*sample(1, 3), Alert(seq=4, time=STARTED, step=30, title="loss is NaN")]
        deliver(tmp_path, given, "killed", mode="online")
        wandb_server.log.clear()
        deliver(tmp_path, given, "killed", mode="online")
        assert wandb_server.log == ["/graphql"]
        assert len(wandb_server.alerts) == 1
        assert shown(wandb_server) == [1, 2, 3]

    def test_attempts_go_on_in_one_run_and_the_last_end_counts(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        for last, status in ((10, "preempted"), (20, "killed"), (20, "failed"), (30, "finished")):
            deliver(tmp_path, sample(1, last), status, "why" if status == "preempted" else "", mode="online")
        assert [row["_step"] for row in the_run(wandb_server).history] == list(range(30))
        assert shown(wandb_server) == in_a_row(30)
        summary = the_run(wandb_server).summary
        assert (summary["telemetry/status"], summary["telemetry/reason"]) == ("finished", "")
        assert the_run(wandb_server).exit_code == 0

    def test_what_a_killed_core_had_in_memory_comes_again(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        sink, _ = opened(tmp_path, mode="online")
        sink.sink_write(sample(1, 50))
        os.kill(*cores(), signal.SIGKILL)
        wait_for(lambda: not cores())
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        deliver(tmp_path, sample(1, 60), mode="online")
        assert shown(wandb_server) == in_a_row(60)


LEAVES = """
import pathlib, sys
from sinks.wandb import client_process
from support.wandb_kit import opened
from telemetry.testing.points import sample
client_process._LAST_WORDS = 2.0
opened(pathlib.Path(sys.argv[1]), mode="online")[0].sink_write(sample(1, 10))
print("written", flush=True)
sys.stdin.readline()
"""


class TestLeaving:
    """A process ends while its run is open, as after `telemetry sync` of a run that goes on."""

    @pytest.mark.parametrize("how", [None, 500, "hang", "frozen"])
    def test_it_uploads_what_it_has_in_bounded_time(
        self, tmp_path: Path, wandb_server: WandbServer, how: int | str | None
    ) -> None:
        command = [sys.executable, "-c", LEAVES, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            if how == "frozen":
                os.kill(*cores(process.pid), signal.SIGSTOP)
            elif how is not None:
                wandb_server.fail(Fault(how))
            process.stdin.write("end\n")
            process.stdin.flush()
            try:
                assert process.wait(15) == 0
            finally:
                process.kill()
        assert cores(process.pid) == []
        wandb_server.fail(None)
        assert shown(wandb_server) == ([] if how else in_a_row(10))
        deliver(tmp_path, sample(1, 20), mode="online")
        assert shown(wandb_server) == in_a_row(20)


class TestRefusals:
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_key_that_is_refused_is_a_permanent_error_with_its_cure(
        self, tmp_path: Path, wandb_server: WandbServer, status: int
    ) -> None:
        wandb_server.fail(Fault(status))
        with pytest.raises(SinkRejected, match=rf"refuses the key \({status}\).*'team' project 'p'|wandb login"):
            opened(tmp_path, mode="online", entity="team", project="p")

    @pytest.mark.parametrize("how", [404, 429, 500, "cut", "hang"])
    def test_any_other_failure_is_tried_again(self, tmp_path: Path, wandb_server: WandbServer, how: int | str) -> None:
        wandb_server.fail(Fault(how, times=1))
        with pytest.raises(SinkUnavailable):
            opened(tmp_path, mode="online")
        deliver(tmp_path, sample(1, 3), mode="online")
        assert shown(wandb_server) == [1, 2, 3]

    def test_a_server_that_answers_nonsense_is_tried_again(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("requests.models.Response.json", lambda _: {"data": None, "errors": ["x"]})
        with pytest.raises(SinkUnavailable, match="gives no answer"):
            opened(tmp_path, mode="online")


class TestFailingUploads:
    @pytest.mark.parametrize("how", [429, 500, "cut", "lost"])
    def test_rows_come_once_when_the_server_recovers(
        self, tmp_path: Path, wandb_server: WandbServer, how: int | str
    ) -> None:
        sink, _ = opened(tmp_path, mode="online")
        sink.sink_write(sample(1, 10))
        wandb_server.fail(Fault(how, "file_stream", times=1))
        try:
            sink.sink_close("finished", "")
        except SinkUnavailable:
            wandb_server.fail(None)
            deliver(tmp_path, sample(1, 10), mode="online")
        assert shown(wandb_server) == in_a_row(10)
        assert the_run(wandb_server).exit_code == 0

    @pytest.mark.parametrize("how", [500, "hang"])
    def test_the_end_is_bounded_and_all_comes_later(
        self, tmp_path: Path, wandb_server: WandbServer, how: int | str
    ) -> None:
        sink, _ = opened(tmp_path, mode="online")
        sink.sink_write(sample(1, 10))
        wandb_server.fail(Fault(how))
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        assert time.monotonic() - started < 8
        wandb_server.fail(None)
        deliver(tmp_path, sample(1, 10), mode="online")
        assert shown(wandb_server) == in_a_row(10)

    def test_uploads_that_stand_still_though_the_server_answers_are_noticed(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        sink, _ = opened(tmp_path, mode="online")
        wandb_server.fail(Fault(500, "file_stream"))
        with asking_always():
            assert sink.sink_write(sample(1, 10)) is None
            with pytest.raises(SinkUnavailable, match="nothing has come"):
                sink.sink_write(sample(11, 20))
        wandb_server.fail(None)
        deliver(tmp_path, sample(1, 30), mode="online")
        assert shown(wandb_server) == in_a_row(30)

    def test_what_the_server_has_is_durable(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
        sink, _ = opened(tmp_path, mode="online")
        sink.sink_write(sample(1, 10))
        wait_for(lambda: len(the_run(wandb_server).history) == 10, 40)
        with asking_always():
            assert sink.sink_write([]) == 10


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[MetricBus]:
    """A run of 20 points, whose trainer lives."""
    bus = open_run(tmp_path / "run", metrics={"train/loss": Metric()}, sinks=[], settings=Settings(every=1))
    publish(bus, 1, 20)
    yield bus
    bus.close()


def publish(bus: MetricBus, first: int, last: int) -> None:
    for step in range(first, last + 1):
        bus.publish("train", step, {"loss": 1 / step})
    assert bus.flush(10)


def deliver_run(folder: Path, wait: Callable[[float], None] = time.sleep, linger: float = 0.0, **kwargs: Any) -> End:
    (sink,) = select(["wandb"], {"wandb": {"mode": "online"}})
    delivery = Delivery(folder, sink, Settings(poll=0.01, linger=linger), wait=wait, **kwargs)
    assert delivery.lease.try_acquire()
    return delivery.run()


class TestDeliveries:
    def test_a_key_that_is_withdrawn_in_mid_run_ends_in_a_refusal_and_all_comes_with_a_new_one(
        self, tmp_path: Path, wandb_server: WandbServer, bus: MetricBus
    ) -> None:
        withdrawn: list[float] = []

        def wait(seconds: float) -> None:
            if not withdrawn:
                wandb_server.fail(Fault(401))
                publish(bus, 21, 40)
            withdrawn.append(seconds)

        folder = tmp_path / "run"
        with asking_always():
            assert deliver_run(folder, wait) is End.REFUSED
        progress = read_progress(folder, "wandb")
        assert progress is not None
        assert progress.state == "refused"
        assert "refuses the key (401)" in progress.last_error
        assert progress.cursor.closed is None
        bus.close()
        wandb_server.fail(None)
        assert deliver_run(folder, follow=False) is End.COMPLETE
        assert [row["trainer/iteration"] for row in the_run(wandb_server).history] == in_a_row(40)

    def test_a_key_that_is_withdrawn_before_the_end_is_no_success(
        self, tmp_path: Path, wandb_server: WandbServer, bus: MetricBus
    ) -> None:
        def wait(_: float) -> None:
            wandb_server.fail(Fault(401))
            bus.close()

        folder = tmp_path / "run"
        assert deliver_run(folder, wait, linger=20.0) is End.REFUSED
        wandb_server.fail(None)
        assert deliver_run(folder, follow=False) is End.COMPLETE
        assert [row["trainer/iteration"] for row in the_run(wandb_server).history] == in_a_row(20)

    def test_a_server_that_is_gone_at_the_end_is_given_up_and_the_receipt_says_what_is_left(
        self, tmp_path: Path, wandb_server: WandbServer, bus: MetricBus
    ) -> None:
        def wait(_: float) -> None:
            wandb_server.fail(Fault(500))
            bus.close()

        folder = tmp_path / "run"
        assert deliver_run(folder, wait) is End.GAVE_UP
        receipt = read_receipt(folder)
        (sink,) = receipt.sinks
        assert (sink.progress.state, sink.progress.cursor.closed) == ("retrying", None)
        wandb_server.fail(None)
        assert deliver_run(folder, follow=False) is End.COMPLETE
        (sink,) = read_receipt(folder).sinks
        assert (sink.pending, sink.progress.state) == (0, "closed")
        assert [row["trainer/iteration"] for row in the_run(wandb_server).history] == in_a_row(20)
