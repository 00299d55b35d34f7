"""The MLflow sink on an SQLite store: what is written, and what is found again after faults and kills."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow import batches as mlflow_batches
from sinks.mlflow.sink import MlflowSink
from support.mlflow_kit import (
    IGNORE_NOLOAD,
    Between,
    client_of,
    find_runs,
    history,
    opened,
    opened_between,
    points,
    put_store,
    refusal,
    shared_template,
    the_run,
)
from telemetry import Metric, Settings, open_run
from telemetry.delivery.delivery import Delivery, End
from telemetry.plugins.registry import Plugin, Sink, select
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import METRICS, STARTED, points_of, resumed, run_record, sample, scalars

pytestmark = IGNORE_NOLOAD

PLAIN = {name: Metric() for name in ("train/loss", "train/lr", "val/loss")}


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run folder, with an SQLite store beside it."""
    shared_template(request.config)
    put_store(tmp_path / "runs")
    return tmp_path / "runs" / "water"


@pytest.fixture
def client(folder: Path) -> Any:
    return client_of(f"sqlite:///{folder.parent}/mlflow.db")


def steps(client: Any) -> list[int]:
    return [step for step, _, _ in history(client, the_run(client).info.run_id)]


class TestPoints:
    def test_points_have_the_iteration_the_value_and_the_time_of_the_journal(self, folder, client):
        sink, _ = opened(folder)
        assert sink.sink_write([scalars(1, loss=0.5), scalars(2, loss=0.25)]) == 2
        assert history(client, the_run(client).info.run_id) == [
            (10, 0.5, STARTED + 1001),
            (20, 0.25, STARTED + 2002),
        ]

    def test_infinities_are_told_from_nan_and_spoil_no_chart(self, folder, client):
        sink, _ = opened(folder)
        sink.sink_write([scalars(1, loss=math.inf), scalars(2, loss=-math.inf), scalars(3, loss=math.nan)])
        run_id = the_run(client).info.run_id
        assert [str(value) for _, value, _ in history(client, run_id)] == ["nan"] * 3
        assert [(step, value) for step, value, _ in history(client, run_id, "train/loss.inf")] == [(10, 1), (20, -1)]

    def test_superseded_points_stay_and_a_tag_says_where_the_attempt_went_on(self, folder, client):
        opened(folder)[0].sink_write([scalars(1, 1), scalars(2, 2), scalars(3, 3)])
        sink, _ = opened(folder, run_record("water", attempt=2))
        sink.sink_write([resumed(10**9 + 1, step=1), scalars(10**9 + 5, 2)])
        assert steps(client) == [1, 2, 3, 2]
        assert the_run(client).data.tags["telemetry.resumed.2"] == "from iteration 1"

    def test_an_empty_batch_asks_nothing(self, folder):
        sink, _ = opened(folder)
        sink.sink_write([scalars(1)])
        sink.connect = sink._run._client = None
        assert sink.sink_write([]) == 1
        assert sink.sink_write([scalars(1)]) == 1


class TestExactlyOnce:
    def test_a_run_whose_creation_was_not_answered_is_found(self, folder, client):
        def lose(real: Any, *args: Any, **kwargs: Any) -> None:
            real.create_run(*args, **kwargs)
            raise TimeoutError

        with pytest.raises(SinkUnavailable, match="TimeoutError"):
            opened_between(folder, create_run=lose)
        _, found = opened(folder)
        assert the_run(client).info.run_id in found.destination

    def test_a_later_run_of_the_same_name_is_another_run(self, folder, client):
        _, first = opened(folder)
        _, second = opened(folder, run_record("water", started=STARTED + 1))
        assert first.destination != second.destination
        assert len(find_runs(client)) == 2

    def test_of_two_runs_the_one_with_the_points_is_taken(self, folder, client):
        sink, found = opened(folder)
        sink.sink_write([scalars(1)])
        tags = {"telemetry.key": the_run(client).data.tags["telemetry.key"]}
        for _ in range(3):
            client.create_run("0", tags=tags)
        assert opened(folder)[1] == found.__class__(found.destination, 1, found.view)

    def test_a_deleted_run_is_created_anew_and_filled_from_the_beginning(self, folder, client):
        sink, before = opened(folder)
        sink.sink_write([scalars(1)])
        client.delete_run(the_run(client).info.run_id)
        with pytest.raises(SinkUnavailable, match=r"refuses all that is written.*deleted"):
            sink.sink_write([scalars(2)])
        _, found = opened(folder)
        assert found.last_seq == 0
        assert found.destination != before.destination

    @pytest.mark.parametrize("applied", [False, True])
    def test_what_fails_in_the_middle_of_a_batch_is_told_and_completed(self, folder, client, monkeypatch, applied):
        monkeypatch.setattr(mlflow_batches, "METRICS", 4)
        calls = []

        def fail(real: Any, *args: Any, **kwargs: Any) -> None:
            calls.append(len(kwargs["metrics"]))
            if applied or len(calls) < 3:
                real.log_batch(*args, **kwargs)
            if len(calls) == 3:
                raise TimeoutError

        sink, _ = opened(folder)
        sink.sink_write([scalars(1)])
        sink, _ = opened_between(folder, log_batch=fail)
        batch = [scalars(seq) for seq in range(1, 20)]
        with pytest.raises(SinkUnavailable):
            sink.sink_write(batch)
        assert calls == [4, 4, 4]
        sink, found = opened(folder)
        # Each call tells what those before it have brought.
        assert found.last_seq == (9 if applied else 5)
        assert sink.sink_write(batch) == 19
        assert steps(client) == [10 * seq for seq in range(1, 20)]

    def test_a_tag_that_somebody_has_spoilt_costs_nothing(self, folder, client):
        sink, _ = opened(folder)
        sink.sink_write([scalars(1)])
        client.set_tag(the_run(client).info.run_id, "telemetry.seq", "two")
        sink, found = opened(folder)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        assert steps(client) == [10, 20]


class TestRefusals:
    def test_a_refused_record_is_found_and_set_aside_and_the_others_are_there(self, folder, client):
        def refuse(real: Any, *args: Any, **kwargs: Any) -> None:
            if any(metric.step == 7 for metric in kwargs["metrics"]):
                raise refusal("not to my taste")
            real.log_batch(*args, **kwargs)

        class Picky(MlflowSink):
            def __init__(self, options: MlflowSink.Options) -> None:
                super().__init__(options)
                self.connect = lambda uri: Between(MlflowSink.connect(uri), log_batch=refuse)

        settings = Settings(sinks=(), delivery="thread")
        with open_run(folder, metrics=PLAIN, settings=settings) as bus:
            for step in range(1, 31):
                bus.publish("val", step, {"loss": 1 / step})
        said: list[str] = []
        delivery = Delivery(
            folder, Sink("mlflow", {}, Plugin("mlflow", Picky, "tests 1.0")), settings, follow=False, log=said.append
        )
        delivery.lease.acquire()
        assert delivery.run() is End.COMPLETE
        assert [step for step, _, _ in history(client, the_run(client).info.run_id, "val/loss")] == [
            step for step in range(1, 31) if step != 7
        ]
        assert len(said) == 1
        assert "not to my taste" in said[0]
        assert len((folder / "sinks" / "mlflow.rejected.jsonl").read_text().splitlines()) == 1

    def test_a_store_that_refuses_everything_sets_no_record_aside(self, folder):
        def refuse(_: Any, *args: Any, **kwargs: Any) -> None:
            raise refusal("no")

        sink, _ = opened(folder)
        sink.sink_write([scalars(1)])
        sink, _ = opened_between(folder, log_batch=refuse)
        with pytest.raises(SinkUnavailable, match="refuses all that is written to run"):
            sink.sink_write([scalars(2)])

    def test_a_new_metric_with_the_name_of_another_is_refused_at_its_record(self, folder, client):
        sink, _ = opened(folder, run_record("water", metrics={"val/E(x)": METRICS["val/loss"]}))
        with pytest.raises(SinkRejected, match="would both be"):
            sink.sink_write([scalars(1), scalars(2, None, "val", **{"E[x]": 1.0})])
        assert sink.sink_write([scalars(1)]) == 1
        assert steps(client) == [10]

    def test_two_metrics_of_one_name_are_refused_before_a_run_is_there(self, folder, client):
        metrics = {"val/E(x)": METRICS["val/loss"], "val/E[x]": METRICS["val/loss"]}
        with pytest.raises(SinkRejected, match=r"'val/E\(x\)' and 'val/E\[x\]'"):
            opened(folder, run_record("water", metrics=metrics))
        assert find_runs(client) == []

    def test_a_deleted_experiment_is_refused_with_the_cure(self, folder, client):
        client.delete_experiment(client.create_experiment("mine"))
        with pytest.raises(SinkRejected, match=r"'mine' has been deleted.*experiments restore --experiment-id 1"):
            opened(folder, experiment="mine")


class TestWholeRuns:
    def test_a_run_is_delivered_by_a_process_and_a_second_delivery_adds_nothing(self, folder, client, monkeypatch):
        monkeypatch.chdir(folder.parent.parent)
        settings = Settings(sinks=("mlflow",), every=1, poll=0.1)
        with open_run(folder, metrics=PLAIN, settings=settings, params={"seed": 7}) as bus:
            for step in range(1, 2001):
                bus.publish("train", step, {"loss": 1 / step, "lr": float(step)})
        run = the_run(client)
        assert steps(client) == list(range(1, 2001))
        assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "7"})
        before = sorted(points(client, run))
        delivery = Delivery(folder, *select(["mlflow"], {}), settings, follow=False)
        delivery.lease.acquire()
        assert delivery.run() is End.COMPLETE
        assert sorted(points(client, the_run(client))) == before
        assert not Path("mlruns").exists()

    def test_all_that_was_sampled_comes_back_with_names_and_units(self, folder, client):
        records = [*sample(1, 50), scalars(51, None, "val", **{"[0]/100%/loss": math.inf})]
        opened(folder)[0].sink_write(records)
        assert sorted(points(client, the_run(client))) == sorted(points_of(records))


def test_the_entry_point_leads_here():
    (sink,) = select(["mlflow"], {})
    assert sink.plugin is not None
    assert sink.plugin.cls is MlflowSink
    assert sink.plugin.requires == ("mlflow",)
