"""The MLflow sink on a running server, and through a failing network. Needs only mlflow-skinny.

If the environment of the tests has no server, MLFLOW_SERVER_BIN is the path of another environment's ``mlflow``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow.sink import MlflowSink
from support.mlflow_kit import client_of, find_runs, history, open_sink, points, shared_server
from support.mlflow_proxy import Fault, Proxy, Request
from telemetry import Metric, Settings, open_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.plugins.registry import select
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import METRICS, STARTED, points_of, run_record, sample, scalars

METRICS_AND_MORE = METRICS | {"val/Å": Metric()}
PLAIN = {name: Metric() for name in ("train/loss", "train/lr")}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    return shared_server(request.config)


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with Proxy(server) as proxy:
        yield proxy


class RemoteRun:
    """A run folder, and its run in a separate experiment on the server."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self._client = client_of(server)

    def open(self, uri: str, **fields: Any) -> tuple[MlflowSink, Any]:
        return open_sink(self.folder, run_record("water", **fields), tracking_uri=uri, experiment=str(self.folder))

    def runs(self) -> list[Any]:
        name = str(self.folder)
        found = find_runs(self._client, run_record("water"))
        return [r for r in found if self._client.get_experiment(r.info.experiment_id).name == name]

    def steps(self) -> list[int]:
        (run,) = self.runs()
        return [step for step, _, _ in history(self._client, run.info.run_id)]

    def points(self) -> list[Any]:
        (run,) = self.runs()
        return sorted(points(self._client, run))


@pytest.fixture
def remote(tmp_path: Path, server: str) -> RemoteRun:
    return RemoteRun(tmp_path / "runs" / "water", server)


def when(what: str, fault: Fault) -> Any:
    return lambda request: fault if request.what == what else None


def test_all_points_are_read_back_with_names_units_and_times(remote, server):
    records = [*sample(1, 700), scalars(701, None, "val", **{"[0]/100%/loss": float("inf"), "Å": float("nan")})]
    sink, found = remote.open(server)
    assert sink.sink_write(records) == 701
    assert str(remote.points()) == str(sorted(points_of(records, METRICS_AND_MORE)))
    (run,) = remote.runs()
    assert found.view.startswith(f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/")
    assert remote.open(server)[1].last_seq == 701


def test_a_closed_run_has_its_status_and_time(remote, server, capsys):
    sink, _ = remote.open(server)
    sink.sink_close("failed", STARTED + 5000, "OutOfMemoryError")
    (run,) = remote.runs()
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FAILED", STARTED, STARTED + 5000)
    assert capsys.readouterr() == ("", "")


def test_status_and_changed_parameters_of_a_later_attempt_are_on_the_server(remote, server):
    sink, _ = remote.open(server, params={"lr": 1})
    sink.sink_close("preempted", STARTED + 1, "SIGTERM")
    remote.open(server, params={"lr": 2}, attempt=2)
    (run,) = remote.runs()
    assert (run.info.status, run.data.params) == ("RUNNING", {"lr": "1"})
    assert run.data.tags["telemetry.param.lr"] == "2"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, "slow down"),
        Fault(500, "<html>oops</html>"),
        Fault(503, '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "database is locked"}'),
        Fault(502),
        Fault(401, "Unauthorized"),
        Fault(403, '{"error_code": "PERMISSION_DENIED", "message": "no"}'),
        Fault(404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}'),
        Fault(200, "<html>please log in</html>"),
        Fault(0),
        Fault(0, forwarded=True),
        Fault(200, "{}", hangs=True),
        Fault(500, "lost", forwarded=True),
    ],
    ids=str,
)
def test_a_temporary_fault_is_not_retried_by_mlflow_and_nothing_is_lost_or_duplicated(remote, proxy, fault):
    sink, _ = remote.open(proxy.url)
    sink.sink_write([scalars(1)])
    calls_before = proxy.count("runs/log-batch")
    proxy.fault = when("runs/log-batch", fault)
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match=r"^mlflow: "):
        sink.sink_write([scalars(2), scalars(3)])
    assert proxy.count("runs/log-batch") == calls_before + 1
    assert time.monotonic() - began < 6
    proxy.release()
    proxy.fault = lambda _: None
    sink, found = remote.open(proxy.url)
    assert found.last_seq == 1
    assert sink.sink_write([scalars(2), scalars(3), scalars(4)]) == 4
    assert remote.steps() == [10, 20, 30, 40]


@pytest.mark.parametrize("fault", [Fault(400, "bad"), Fault(413, "<html>Request Entity Too Large</html>")], ids=str)
def test_records_that_the_server_rejects_are_reported_as_rejected(remote, proxy, fault):
    sink, _ = remote.open(proxy.url)
    sink.sink_write([scalars(1)])
    proxy.fault = lambda request: fault if any(m["step"] == 20 for m in request.body.get("metrics", ())) else None
    with pytest.raises(SinkRejected, match=str(fault.status)):
        sink.sink_write([scalars(2), scalars(3)])
    assert sink.sink_write([scalars(3)]) == 3
    assert remote.steps() == [10, 30]


@pytest.mark.parametrize("status", [400, 413])
def test_no_record_is_set_aside_if_the_server_rejects_every_call(remote, proxy, status):
    sink, _ = remote.open(proxy.url)
    sink.sink_write([scalars(1)])
    proxy.fault = when("runs/log-batch", Fault(status, "no"))
    with pytest.raises(SinkUnavailable, match="rejects everything written to run"):
        sink.sink_write([scalars(2)])


def test_a_size_limit_of_the_server_is_met_by_smaller_calls(remote, proxy, server):
    settings = Settings(sinks=(), delivery="thread", every=1)
    with open_run(remote.folder, metrics=PLAIN, settings=settings) as bus:
        for step in range(1, 601):
            bus.publish("train", step, {"loss": 1 / step, "lr": 1.0})

    def limit(request: Request) -> Fault | None:
        return Fault(413, "too large") if len(str(request.body)) > 20_000 else None

    proxy.fault = limit
    (sink,) = select(["mlflow"], {"mlflow": {"tracking_uri": proxy.url, "experiment": str(remote.folder)}})
    delivery = Delivery(remote.folder, sink, settings, follow=False, wait=lambda _: None)
    delivery.lease.acquire()
    assert delivery.run() is DeliveryOutcome.COMPLETE
    assert not (remote.folder / "sinks" / "mlflow.rejected.jsonl").exists()
    client = client_of(server)
    experiment = client.get_experiment_by_name(str(remote.folder))
    (run,) = client.search_runs([experiment.experiment_id])
    assert [step for step, _, _ in history(client, run.info.run_id)] == list(range(1, 601))


def test_a_run_whose_creation_was_not_acknowledged_is_found_and_not_created_twice(remote, proxy):
    faults = {"experiments/create": Fault(0, forwarded=True), "runs/create": Fault(0, forwarded=True)}
    proxy.fault = lambda request: faults.pop(request.what, None)
    with pytest.raises(SinkUnavailable):
        remote.open(proxy.url)
    assert faults == {}
    remote.open(proxy.url)
    assert len(remote.runs()) == 1


@pytest.mark.parametrize("fault", [Fault(401, "You are not authenticated"), Fault(403, "Permission denied")], ids=str)
def test_credentials_rejected_at_the_start_are_a_permanent_error_that_names_the_fix(remote, proxy, fault):
    proxy.fault = lambda _: fault
    with pytest.raises(SinkRejected, match=rf"{proxy.url} rejected the login: set MLFLOW_TRACKING_TOKEN"):
        remote.open(proxy.url)


def test_credentials_in_the_environments_uri_are_used_but_not_shown(remote, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url.replace("http://", "http://me:se@cret@"))
    sink, found = open_sink(remote.folder, experiment=str(remote.folder))
    assert {request.login for request in proxy.requests} == {"Basic bWU6c2VAY3JldA=="}
    proxy.fault = lambda _: Fault(200, "{}", hangs=True)
    with pytest.raises(SinkUnavailable) as caught:
        sink.sink_write([scalars(1)])
    for text in (str(found), str(caught.value)):
        assert "cret" not in text
        assert proxy.url.removeprefix("http://") in text


def test_an_unreachable_server_fails_at_once(remote):
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1"):
        remote.open("http://127.0.0.1:1")
    assert time.monotonic() - began < 5


def test_a_server_other_than_mlflow_is_a_temporary_error(remote, proxy):
    proxy.fault = lambda _: Fault(404, "<html>nothing here</html>")
    with pytest.raises(SinkUnavailable, match="404"):
        remote.open(proxy.url)


def test_all_of_twenty_thousand_records_are_delivered(remote, server):
    names = ("loss", "E_rmse", "F_rmse", "q_rmse", "lr", "it_per_s")
    sink, _ = remote.open(server)
    for first in range(1, 20_001, 1000):
        sink.sink_write([scalars(seq, **dict.fromkeys(names, 1 / seq)) for seq in range(first, first + 1000)])
    assert remote.steps() == [10 * seq for seq in range(1, 20_001)]
