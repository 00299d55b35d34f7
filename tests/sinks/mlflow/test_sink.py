"""The MLflow sink on an SQLite store: written runs, faults, kills and rejections."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow.batches import MAX_METRICS_PER_CALL
from sinks.mlflow.sink import MlflowSink
from support.mlflow_kit import (
    IGNORE_NOLOAD,
    InterceptingClient,
    client_of,
    copy_store,
    find_runs,
    history,
    only_run,
    open_sink,
    open_sink_with,
    points,
    rejection,
    shared_template,
)
from telemetry import Metric, Settings, open_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.plugins.registry import Plugin, Sink, select
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import METRICS, STARTED, points_of, resumed, run_record, sample, scalars

pytestmark = IGNORE_NOLOAD

PLAIN = {name: Metric() for name in ("train/loss", "train/lr", "val/loss")}


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a run folder next to an SQLite store."""
    shared_template(request.config)
    copy_store(tmp_path / "runs")
    return tmp_path / "runs" / "water"


@pytest.fixture
def client(folder: Path) -> Any:
    return client_of(f"sqlite:///{folder.parent}/mlflow.db")


def steps(client: Any) -> list[int]:
    return [step for step, _, _ in history(client, only_run(client).info.run_id)]


class TestPoints:
    def test_points_have_the_iteration_value_and_time_of_the_journal(self, folder, client):
        sink, _ = open_sink(folder)
        assert sink.sink_write([scalars(1, loss=0.5), scalars(2, loss=0.25)]) == 2
        assert history(client, only_run(client).info.run_id) == [
            (10, 0.5, STARTED + 1001),
            (20, 0.25, STARTED + 2002),
        ]

    def test_infinities_are_distinguished_from_nan_and_stored_as_nan(self, folder, client):
        sink, _ = open_sink(folder)
        sink.sink_write([scalars(1, loss=math.inf), scalars(2, loss=-math.inf), scalars(3, loss=math.nan)])
        run_id = only_run(client).info.run_id
        assert [str(value) for _, value, _ in history(client, run_id)] == ["nan"] * 3
        assert [(step, value) for step, value, _ in history(client, run_id, "train/loss.inf")] == [(10, 1), (20, -1)]

    def test_superseded_points_are_kept_and_a_tag_holds_the_iteration_resumed_from(self, folder, client):
        open_sink(folder)[0].sink_write([scalars(1, 1), scalars(2, 2), scalars(3, 3)])
        sink, _ = open_sink(folder, run_record("water", attempt=2))
        sink.sink_write([resumed(10**9 + 1, step=1), scalars(10**9 + 5, 2)])
        assert steps(client) == [1, 2, 3, 2]
        assert only_run(client).data.tags["telemetry.resumed.2"] == "from iteration 1"

    def test_a_batch_without_new_records_makes_no_calls(self, folder):
        open_sink(folder)[0].sink_write([scalars(1)])
        calls = []
        sink, _ = open_sink_with(folder, log_batch=lambda *args, **kwargs: calls.append(kwargs))
        calls.clear()
        assert sink.sink_write([]) == 1
        assert sink.sink_write([scalars(1)]) == 1
        assert calls == []


class TestExactlyOnce:
    def test_a_run_whose_creation_was_not_acknowledged_is_found(self, folder, client):
        def lose(real: Any, *args: Any, **kwargs: Any) -> None:
            real.create_run(*args, **kwargs)
            raise TimeoutError

        with pytest.raises(SinkUnavailable, match="TimeoutError"):
            open_sink_with(folder, create_run=lose)
        _, found = open_sink(folder)
        assert only_run(client).info.run_id in found.destination

    def test_a_later_run_of_the_same_name_is_a_different_run(self, folder, client):
        _, first = open_sink(folder)
        _, second = open_sink(folder, run_record("water", started=STARTED + 1))
        assert first.destination != second.destination
        assert len(find_runs(client)) == 2

    def test_of_several_runs_the_one_with_points_is_used(self, folder, client):
        sink, found = open_sink(folder)
        sink.sink_write([scalars(1)])
        tags = {"telemetry.key": only_run(client).data.tags["telemetry.key"]}
        for _ in range(3):
            client.create_run("0", tags=tags)
        assert open_sink(folder)[1] == found.__class__(found.destination, 1, found.view)

    def test_a_deleted_run_is_created_again_and_filled_from_the_beginning(self, folder, client):
        sink, before = open_sink(folder)
        sink.sink_write([scalars(1)])
        client.delete_run(only_run(client).info.run_id)
        with pytest.raises(SinkUnavailable, match=r"rejects everything written.*deleted"):
            sink.sink_write([scalars(2)])
        _, found = open_sink(folder)
        assert found.last_seq == 0
        assert found.destination != before.destination

    @pytest.mark.parametrize("applied", [False, True])
    def test_a_failure_in_the_middle_of_a_batch_is_reported_and_the_batch_completed(self, folder, client, applied):
        # Four records per call.
        values = dict.fromkeys([f"m{number}" for number in range(MAX_METRICS_PER_CALL // 4 - 1)], 1.0)
        calls = []

        def fail(real: Any, *args: Any, **kwargs: Any) -> None:
            calls.append(len(kwargs["metrics"]))
            if applied or len(calls) < 3:
                real.log_batch(*args, **kwargs)
            if len(calls) == 3:
                raise TimeoutError

        sink, _ = open_sink(folder)
        sink.sink_write([scalars(1)])
        sink, _ = open_sink_with(folder, log_batch=fail)
        batch = [scalars(seq, loss=1 / seq, **values) for seq in range(1, 20)]
        with pytest.raises(SinkUnavailable):
            sink.sink_write(batch)
        assert calls == [MAX_METRICS_PER_CALL] * 3
        sink, found = open_sink(folder)
        # Each call confirms the records of the calls before it.
        assert found.last_seq == (9 if applied else 5)
        assert sink.sink_write(batch) == 19
        assert steps(client) == [10 * seq for seq in range(1, 20)]

    def test_a_corrupted_tag_loses_and_duplicates_nothing(self, folder, client):
        sink, _ = open_sink(folder)
        sink.sink_write([scalars(1)])
        client.set_tag(only_run(client).info.run_id, "telemetry.seq", "two")
        sink, found = open_sink(folder)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        assert steps(client) == [10, 20]


class TestRejections:
    def test_a_rejected_record_is_set_aside_and_the_others_are_stored(self, folder, client):
        def reject(real: Any, *args: Any, **kwargs: Any) -> None:
            if any(metric.step == 7 for metric in kwargs["metrics"]):
                raise rejection("invalid record")
            real.log_batch(*args, **kwargs)

        class RejectingSink(MlflowSink):
            def __init__(self, options: MlflowSink.Options) -> None:
                super().__init__(options)
                self.connect = lambda uri: InterceptingClient(MlflowSink.connect(uri), log_batch=reject)

        settings = Settings(sinks=(), delivery="thread")
        with open_run(folder, metrics=PLAIN, settings=settings) as bus:
            for step in range(1, 31):
                bus.publish("val", step, {"loss": 1 / step})
        messages: list[str] = []
        delivery = Delivery(
            folder,
            Sink("mlflow", {}, Plugin("mlflow", RejectingSink, "tests 1.0")),
            settings,
            follow=False,
            log=messages.append,
        )
        delivery.lease.acquire()
        assert delivery.run() is DeliveryOutcome.COMPLETE
        assert [step for step, _, _ in history(client, only_run(client).info.run_id, "val/loss")] == [
            step for step in range(1, 31) if step != 7
        ]
        assert len(messages) == 1
        assert "invalid record" in messages[0]
        assert len((folder / "sinks" / "mlflow.rejected.jsonl").read_text().splitlines()) == 1

    def test_no_record_is_set_aside_if_the_store_rejects_everything(self, folder):
        def reject(_: Any, *args: Any, **kwargs: Any) -> None:
            raise rejection("no")

        sink, _ = open_sink(folder)
        sink.sink_write([scalars(1)])
        sink, _ = open_sink_with(folder, log_batch=reject)
        with pytest.raises(SinkUnavailable, match="rejects everything written to run"):
            sink.sink_write([scalars(2)])

    def test_a_new_metric_with_the_name_of_another_is_rejected_at_its_record(self, folder, client):
        sink, _ = open_sink(folder, run_record("water", metrics={"val/E(x)": METRICS["val/loss"]}))
        with pytest.raises(SinkRejected, match="would both be"):
            sink.sink_write([scalars(1), scalars(2, None, "val", **{"E[x]": 1.0})])
        assert sink.sink_write([scalars(1)]) == 1
        assert steps(client) == [10]

    def test_two_metrics_with_the_same_name_are_rejected_before_a_run_is_created(self, folder, client):
        metrics = {"val/E(x)": METRICS["val/loss"], "val/E[x]": METRICS["val/loss"]}
        with pytest.raises(SinkRejected, match=r"'val/E\(x\)' and 'val/E\[x\]'"):
            open_sink(folder, run_record("water", metrics=metrics))
        assert find_runs(client) == []

    def test_a_deleted_experiment_is_rejected_with_the_fix(self, folder, client):
        client.delete_experiment(client.create_experiment("mine"))
        with pytest.raises(SinkRejected, match=r"'mine' has been deleted.*experiments restore --experiment-id 1"):
            open_sink(folder, experiment="mine")


class TestWholeRuns:
    def test_a_run_is_delivered_by_a_process_and_a_second_delivery_changes_nothing(self, folder, client, monkeypatch):
        monkeypatch.chdir(folder.parent.parent)
        settings = Settings(sinks=("mlflow",), every=1, poll=0.1)
        with open_run(folder, metrics=PLAIN, settings=settings, params={"seed": 7}) as bus:
            for step in range(1, 2001):
                bus.publish("train", step, {"loss": 1 / step, "lr": float(step)})
        run = only_run(client)
        assert steps(client) == list(range(1, 2001))
        assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "7"})
        before = sorted(points(client, run))
        delivery = Delivery(folder, *select(["mlflow"], {}), settings, follow=False)
        delivery.lease.acquire()
        assert delivery.run() is DeliveryOutcome.COMPLETE
        assert sorted(points(client, only_run(client))) == before
        assert not Path("mlruns").exists()

    def test_all_points_are_read_back_with_names_and_units(self, folder, client):
        records = [*sample(1, 50), scalars(51, None, "val", **{"[0]/100%/loss": math.inf})]
        open_sink(folder)[0].sink_write(records)
        assert sorted(points(client, only_run(client))) == sorted(points_of(records))


def test_the_entry_point_refers_to_the_sink():
    (sink,) = select(["mlflow"], {})
    assert sink.plugin is not None
    assert sink.plugin.cls is MlflowSink
    assert sink.plugin.requires == ("mlflow",)
