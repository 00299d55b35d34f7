"""The W&B sink online, with a test server and its faults."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.wandb.sink import WandbSink
from sinks.wandb.timeouts import Timeouts
from support.wandb_kit import client_pids, deliver, numbers_up_to, open_sink, wait_for
from support.wandb_server import Fault, Run, WandbServer
from telemetry import Alert, Metric, RunRecord, Settings, open_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.receipt import read_receipt
from telemetry.plugins.registry import Plugin, Sink
from telemetry.recording.bus import MetricBus
from telemetry.run_folder.sink_progress import read_progress
from telemetry.sink_api import Opened, SinkRejected, SinkUnavailable
from telemetry.testing.points import STARTED, sample, scalars

# Runs that were never finished leave threads of wandb, which raise errors when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


SHORT = Timeouts(init=2.0, finish=2.0, request=2.0)
QUERY_EACH_WRITE = dataclasses.replace(SHORT, query_interval=0.0)


class ShortSink(WandbSink):
    timeouts = SHORT


class QueryingSink(WandbSink):
    timeouts = QUERY_EACH_WRITE


@pytest.fixture(autouse=True)
def _server(wandb_server: WandbServer) -> None:
    """Use the test server in all tests, even in those that do not name it."""


def open_online(
    folder: Path, timeouts: Timeouts = SHORT, run: RunRecord | None = None, **options: Any
) -> tuple[WandbSink, Opened]:
    return open_sink(folder, run, timeouts, mode="online", **options)


def deliver_online(folder: Path, *arguments: Any, **options: Any) -> None:
    deliver(folder, *arguments, mode="online", timeouts=SHORT, **options)


def only_run(server: WandbServer) -> Run:
    (run,) = server.runs.values()
    return run


def shown(server: WandbServer) -> list[int]:
    return [row["telemetry/seq"] for row in only_run(server).history]


class TestRuns:
    def test_rows_configuration_status_and_alerts_are_on_the_server(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        alert = Alert(seq=3, time=STARTED, step=20, title="loss is NaN", level="error")
        options: dict[str, Any] = {"project": "p", "group": "g", "tags": ["a"], "notes": "n", "name": "displayed"}
        deliver_online(tmp_path, [scalars(1, 10, loss=0.5), scalars(2, 20), alert], "failed", **options)
        run = only_run(wandb_server)
        first = run.history[0]
        assert (first["train/loss"], first["trainer/iteration"], first["_step"]) == (0.5, 10, 0)
        assert first["_timestamp"] == (STARTED + 1001) / 1000
        assert run.config["seed"]["value"] == 7
        assert run.config["telemetry/units"]["value"]["train/E_rmse"] == "kcal/mol"
        assert (run.project, run.exit_code, run.summary["telemetry/status"]) == ("p", 1, "failed")
        fields = {name: run.fields[name] for name in ("groupName", "tags", "notes", "displayName")}
        assert fields == {"groupName": "g", "tags": ["a"], "notes": "n", "displayName": "displayed"}
        assert [alert["title"] for alert in wandb_server.alerts] == ["loss is NaN"]

    def test_closing_again_sends_nothing(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        records = [*sample(1, 3), Alert(seq=4, time=STARTED, step=30, title="loss is NaN")]
        deliver_online(tmp_path, records, "killed")
        wandb_server.log.clear()
        deliver_online(tmp_path, records, "killed")
        assert wandb_server.log == ["/graphql"]
        assert len(wandb_server.alerts) == 1
        assert shown(wandb_server) == [1, 2, 3]

    def test_attempts_continue_one_run_which_has_the_last_status(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        for last, status in ((10, "preempted"), (20, "killed"), (20, "failed"), (30, "finished")):
            deliver_online(tmp_path, sample(1, last), status, "why" if status == "preempted" else "")
        assert [row["_step"] for row in only_run(wandb_server).history] == list(range(30))
        assert shown(wandb_server) == numbers_up_to(30)
        summary = only_run(wandb_server).summary
        assert (summary["telemetry/status"], summary["telemetry/reason"]) == ("finished", "")
        assert only_run(wandb_server).exit_code == 0

    def test_rows_lost_with_a_killed_client_are_delivered_again(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        sink, _ = open_online(tmp_path)
        sink.sink_write(sample(1, 50))
        os.kill(*client_pids(), signal.SIGKILL)
        wait_for(lambda: not client_pids())
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        deliver_online(tmp_path, sample(1, 60))
        assert shown(wandb_server) == numbers_up_to(60)


EXIT_WITH_OPEN_RUN = """
import pathlib, sys
from sinks.wandb.timeouts import Timeouts
from support.wandb_kit import open_sink
from telemetry.testing.points import sample
open_sink(pathlib.Path(sys.argv[1]), timeouts=Timeouts(exit=2.0), mode="online")[0].sink_write(sample(1, 10))
print("written", flush=True)
sys.stdin.readline()
"""


class TestExit:
    """A process exits while its run is open, as after `telemetry sync` of an active run."""

    @pytest.mark.parametrize("how", [None, 500, "hang", "suspended"])
    def test_pending_rows_are_uploaded_in_bounded_time(
        self, tmp_path: Path, wandb_server: WandbServer, how: int | str | None
    ) -> None:
        command = [sys.executable, "-c", EXIT_WITH_OPEN_RUN, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            if how == "suspended":
                os.kill(*client_pids(process.pid), signal.SIGSTOP)
            elif how is not None:
                wandb_server.fail(Fault(how))
            process.stdin.write("end\n")
            process.stdin.flush()
            try:
                assert process.wait(15) == 0
            finally:
                process.kill()
        assert client_pids(process.pid) == []
        wandb_server.fail(None)
        assert shown(wandb_server) == ([] if how else numbers_up_to(10))
        deliver_online(tmp_path, sample(1, 20))
        assert shown(wandb_server) == numbers_up_to(20)


class TestRejections:
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_rejected_key_is_a_permanent_error_that_names_the_fix(
        self, tmp_path: Path, wandb_server: WandbServer, status: int
    ) -> None:
        wandb_server.fail(Fault(status))
        with pytest.raises(SinkRejected, match=rf"rejected the key \({status}\).*'team' project 'p'|wandb login"):
            open_online(tmp_path, entity="team", project="p")

    @pytest.mark.parametrize("how", [404, 429, 500, "cut", "hang"])
    def test_any_other_failure_is_retried(self, tmp_path: Path, wandb_server: WandbServer, how: int | str) -> None:
        wandb_server.fail(Fault(how, times=1))
        with pytest.raises(SinkUnavailable):
            open_online(tmp_path)
        deliver_online(tmp_path, sample(1, 3))
        assert shown(wandb_server) == [1, 2, 3]

    def test_an_unexpected_answer_is_retried(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("requests.models.Response.json", lambda _: {"data": None, "errors": ["x"]})
        with pytest.raises(SinkUnavailable, match="gave an unexpected answer"):
            open_online(tmp_path)


class TestFailingUploads:
    @pytest.mark.parametrize("how", [429, 500, "cut", "lost"])
    def test_rows_appear_once_after_the_server_recovers(
        self, tmp_path: Path, wandb_server: WandbServer, how: int | str
    ) -> None:
        sink, _ = open_online(tmp_path)
        sink.sink_write(sample(1, 10))
        wandb_server.fail(Fault(how, "file_stream", times=1))
        try:
            sink.sink_close("finished", "")
        except SinkUnavailable:
            wandb_server.fail(None)
            deliver_online(tmp_path, sample(1, 10))
        assert shown(wandb_server) == numbers_up_to(10)
        assert only_run(wandb_server).exit_code == 0

    @pytest.mark.parametrize("how", [500, "hang"])
    def test_closing_takes_bounded_time_and_all_rows_are_delivered_later(
        self, tmp_path: Path, wandb_server: WandbServer, how: int | str
    ) -> None:
        sink, _ = open_online(tmp_path)
        sink.sink_write(sample(1, 10))
        wandb_server.fail(Fault(how))
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        assert time.monotonic() - started < 8
        wandb_server.fail(None)
        deliver_online(tmp_path, sample(1, 10))
        assert shown(wandb_server) == numbers_up_to(10)

    def test_stalled_uploads_are_detected_although_the_server_answers(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        sink, _ = open_online(tmp_path, QUERY_EACH_WRITE)
        wandb_server.fail(Fault(500, "file_stream"))
        assert sink.sink_write(sample(1, 10)) is None
        with pytest.raises(SinkUnavailable, match="has received no rows"):
            sink.sink_write(sample(11, 20))
        wandb_server.fail(None)
        deliver_online(tmp_path, sample(1, 30))
        assert shown(wandb_server) == numbers_up_to(30)

    def test_rows_on_the_server_are_confirmed_as_durable(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
        sink, _ = open_online(tmp_path, QUERY_EACH_WRITE)
        sink.sink_write(sample(1, 10))
        wait_for(lambda: len(only_run(wandb_server).history) == 10, 40)
        assert sink.sink_write([]) == 10


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[MetricBus]:
    """Yield a run of 20 points whose trainer is alive."""
    bus = open_run(tmp_path / "run", metrics={"train/loss": Metric()}, sinks=[], settings=Settings(every=1))
    publish(bus, 1, 20)
    yield bus
    bus.close()


def publish(bus: MetricBus, first: int, last: int) -> None:
    for step in range(first, last + 1):
        bus.publish("train", step, {"loss": 1 / step})
    assert bus.flush(10)


def deliver_run(
    folder: Path,
    wait: Callable[[float], None] = time.sleep,
    *,
    sink: type[WandbSink] = ShortSink,
    linger: float = 0.0,
    follow: bool = True,
) -> DeliveryOutcome:
    chosen = Sink("wandb", {"mode": "online"}, Plugin("wandb", sink, "tests 1.0"))
    delivery = Delivery(folder, chosen, Settings(poll=0.01, linger=linger), wait=wait, follow=follow)
    assert delivery.lease.try_acquire()
    return delivery.run()


class TestDeliveries:
    def test_a_key_withdrawn_during_a_run_ends_delivery_and_a_new_key_delivers_the_rest(
        self, tmp_path: Path, wandb_server: WandbServer, bus: MetricBus
    ) -> None:
        withdrawn: list[float] = []

        def wait(seconds: float) -> None:
            if not withdrawn:
                wandb_server.fail(Fault(401))
                publish(bus, 21, 40)
            withdrawn.append(seconds)

        folder = tmp_path / "run"
        assert deliver_run(folder, wait, sink=QueryingSink) is DeliveryOutcome.REJECTED
        progress = read_progress(folder, "wandb")
        assert progress is not None
        assert progress.state == "refused"
        assert "rejected the key (401)" in progress.last_error
        assert progress.cursor.closed is None
        bus.close()
        wandb_server.fail(None)
        assert deliver_run(folder, follow=False) is DeliveryOutcome.COMPLETE
        assert [row["trainer/iteration"] for row in only_run(wandb_server).history] == numbers_up_to(40)

    def test_a_key_withdrawn_before_the_end_is_reported(
        self, tmp_path: Path, wandb_server: WandbServer, bus: MetricBus
    ) -> None:
        def wait(_: float) -> None:
            wandb_server.fail(Fault(401))
            bus.close()

        folder = tmp_path / "run"
        assert deliver_run(folder, wait, linger=20.0) is DeliveryOutcome.REJECTED
        wandb_server.fail(None)
        assert deliver_run(folder, follow=False) is DeliveryOutcome.COMPLETE
        assert [row["trainer/iteration"] for row in only_run(wandb_server).history] == numbers_up_to(20)

    def test_a_server_that_fails_at_the_end_is_given_up_and_the_receipt_shows_the_rest(
        self, tmp_path: Path, wandb_server: WandbServer, bus: MetricBus
    ) -> None:
        def wait(_: float) -> None:
            wandb_server.fail(Fault(500))
            bus.close()

        folder = tmp_path / "run"
        assert deliver_run(folder, wait) is DeliveryOutcome.GAVE_UP
        receipt = read_receipt(folder)
        (sink,) = receipt.sinks
        assert (sink.progress.state, sink.progress.cursor.closed) == ("retrying", None)
        wandb_server.fail(None)
        assert deliver_run(folder, follow=False) is DeliveryOutcome.COMPLETE
        (sink,) = read_receipt(folder).sinks
        assert (sink.pending, sink.progress.state) == (0, "closed")
        assert [row["trainer/iteration"] for row in only_run(wandb_server).history] == numbers_up_to(20)
