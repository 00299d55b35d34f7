"""One run in MLflow, on the fake client: what each method stores, and in which order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from sinks.mlflow.run import MlflowRun, open_experiment
from support.fake_mlflow import FakeMlflow, FaultyMlflow
from support.mlflow_kit import history, rejection
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import STARTED, resumed, run_record, sample, scalars


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "fake.jsonl"


@pytest.fixture
def client(store: Path) -> FakeMlflow:
    client = FakeMlflow(store)
    client.create_experiment("water")
    return client


def open_run(client: Any, **fields: Any) -> MlflowRun:
    return MlflowRun(client, "0", run_record("water", **fields), Path("/runs/water"), "a name")


def described(client: Any, **fields: Any) -> Any:
    """Open and describe the run, and return it as stored."""
    run = open_run(client, **fields)
    run.describe({})
    return client.get_run(run.run_id)


class Counted:
    """A client that notes the changes made through it."""

    def __init__(self, client: FakeMlflow) -> None:
        self._client = client
        self.changes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in {"create_run", "log_batch", "update_run", "set_terminated"}:
            self.changes.append(name)
        return getattr(self._client, name)


class TestExperiment:
    def test_it_is_created_once(self, client: FakeMlflow) -> None:
        assert open_experiment(client, "water", None) == "0"
        assert open_experiment(client, "ice", "/artifacts") == open_experiment(client, "ice", None) == "1"

    def test_one_created_by_another_delivery_in_the_meantime_is_used(self, client: FakeMlflow, store: Path) -> None:
        class Late(FakeMlflow):
            def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
                client.create_experiment(name)
                return super().create_experiment(name, artifact_location)

        assert open_experiment(Late(store), "ice", None) == "1"

    def test_the_error_that_prevents_its_creation_is_raised(self, store: Path) -> None:
        client = FaultyMlflow(store, lambda name: "busy" if name == "create_experiment" else None)
        with pytest.raises(MlflowException, match="database is locked"):
            open_experiment(client, "ice", None)

    def test_a_deleted_one_is_rejected(self, client: FakeMlflow) -> None:
        client.delete_experiment("0")
        with pytest.raises(SinkRejected, match=r"--experiment-id 0\), or set telemetry\.mlflow\.experiment"):
            open_experiment(client, "water", None)


class TestDescription:
    def test_a_new_run_has_its_start_parameters_and_tags(self, client: FakeMlflow) -> None:
        run = described(client, params={"lr": 0.1, "model": {"depth": 3}}, versions={"torch": "2.13"}, project="p")
        assert (run.info.run_name, run.info.start_time, run.info.status) == ("a name", STARTED, "RUNNING")
        assert run.data.params == {"lr": "0.1", "model.depth": "3"}
        assert run.data.tags.items() >= {"telemetry.attempt": "1", "version.torch": "2.13", "project": "p"}.items()

    def test_a_run_that_started_in_1970_starts_at_the_earliest_time_that_mlflow_stores(
        self, client: FakeMlflow
    ) -> None:
        assert described(client, started=0).info.start_time == 1

    def test_describing_it_again_makes_no_change(self, client: FakeMlflow) -> None:
        described(client, params={"lr": 0.1})
        counted = Counted(client)
        described(counted, params={"lr": 0.1})
        assert counted.changes == []

    def test_a_tag_holds_the_value_of_a_parameter_changed_by_a_later_attempt(self, client: FakeMlflow) -> None:
        described(client, params={"lr": 0.1, "depth": 3})
        run = described(client, params={"lr": 0.2, "depth": 3, "new": 1}, attempt=2)
        assert run.data.params == {"lr": "0.1", "depth": "3", "new": "1"}
        changed = {name: value for name, value in run.data.tags.items() if name.startswith("telemetry.param.")}
        assert changed == {"telemetry.param.lr": "0.2"}
        run = described(client, params={"lr": 0.1, "depth": 3}, attempt=3)
        assert run.data.tags["telemetry.param.lr"] == "0.1", "an outdated tag contradicts the attempt"

    def test_a_later_attempt_reopens_the_run_and_the_same_one_does_not(self, client: FakeMlflow) -> None:
        run = open_run(client)
        run.describe({})
        run.close("preempted", STARTED + 5, "")
        assert described(client).info.status == "KILLED"
        reopened = described(client, attempt=2)
        assert (reopened.info.status, reopened.data.tags["telemetry.attempt"]) == ("RUNNING", "2")

    def test_the_attempt_is_noted_only_after_everything_else(self, client: FakeMlflow) -> None:
        class KilledError(Exception):
            pass

        class Interrupted(Counted):
            def update_run(self, *_: Any, **__: Any) -> None:
                raise KilledError

        run = open_run(client)
        run.describe({})
        run.close("preempted", STARTED + 5, "")
        with pytest.raises(KilledError):
            described(Interrupted(client), attempt=2)
        assert described(client, attempt=2).info.status == "RUNNING"

    def test_many_parameters_are_divided_and_only_a_rejected_one_is_missing(
        self, client: FakeMlflow, store: Path
    ) -> None:
        class Picky(FakeMlflow):
            def log_batch(self, run_id: str, *args: Any, params: Any = (), **more: Any) -> None:
                if any(param.key == "p130" for param in params):
                    raise rejection("invalid parameter")
                super().log_batch(run_id, *args, params=params, **more)

        given = {f"p{number:03}": number for number in range(250)}
        expected = {name: str(number) for name, number in given.items() if name != "p130"}
        assert described(Picky(store), params=given).data.params == expected

    def test_other_errors_are_raised(self, client: FakeMlflow, store: Path) -> None:
        run = open_run(FaultyMlflow(store, lambda name: "busy" if name == "log_batch" else None))
        with pytest.raises(MlflowException, match="database is locked"):
            run.describe({})


class TestRecords:
    def test_each_is_stored_once_and_its_number_with_it(self, client: FakeMlflow) -> None:
        run = open_run(client)
        assert run.last_seq == 0
        assert run.write(sample(1, 20)) == 20
        again = open_run(client)
        assert (again.run_id, again.last_seq) == (run.run_id, 20)
        counted = Counted(client)
        late = open_run(counted)
        assert late.write(sample(1, 20)) == 20
        assert counted.changes == []
        assert late.write(sample(15, 25)) == 25
        steps = [step for step, _, _ in history(client, run.run_id, "val/loss")]
        assert steps == [10 * seq for seq in range(3, 26, 3)]

    def test_a_run_with_an_unreadable_number_is_filled_again(self, client: FakeMlflow) -> None:
        run = open_run(client)
        client.log_batch(run.run_id, tags=[RunTag("telemetry.seq", "two")], synchronous=True)
        assert open_run(client).last_seq == 0

    def test_a_call_confirms_only_the_calls_before_it(self, client: FakeMlflow, store: Path) -> None:
        calls: list[str] = []

        def second_call_is_torn(name: str) -> str | None:
            calls.append(name)
            return "torn" if name == "log_batch" and calls.count("log_batch") == 2 else None

        # Each record takes a call of its own.
        values = dict.fromkeys([f"m{number}" for number in range(600)], 1.0)
        records = [scalars(seq, loss=0.5, **values) for seq in (1, 2, 3)]
        with pytest.raises(MlflowException, match="disk I/O error"):
            open_run(FaultyMlflow(store, second_call_is_torn)).write(records)
        run = open_run(client)
        assert run.last_seq == 0
        assert run.write(records) == 3
        assert [step for step, _, _ in history(client, run.run_id)] == [10, 20, 30]

    def test_a_resume_is_a_tag(self, client: FakeMlflow) -> None:
        run = open_run(client)
        run.write([scalars(1), resumed(10**9 + 1, step=7)])
        assert client.get_run(run.run_id).data.tags["telemetry.resumed.2"] == "from iteration 7"

    def test_a_rejected_record_does_not_prevent_the_next_one(self, client: FakeMlflow, store: Path) -> None:
        class Picky(FakeMlflow):
            def log_batch(self, run_id: str, metrics: Any = (), **more: Any) -> None:
                if any(math.isnan(metric.value) for metric in metrics):
                    raise rejection("NaN is not welcome")
                super().log_batch(run_id, metrics=metrics, **more)

        run = open_run(Picky(store))
        run.write([scalars(1)])
        with pytest.raises(SinkRejected, match="NaN is not welcome"):
            run.write([scalars(2, loss=math.nan)])
        assert run.write([scalars(3)]) == 3

    def test_no_record_is_rejected_if_mlflow_rejects_every_metric(self, client: FakeMlflow, store: Path) -> None:
        class Picky(FakeMlflow):
            rejects = False

            def log_batch(self, run_id: str, metrics: Any = (), **more: Any) -> None:
                if self.rejects and metrics:
                    raise rejection("no metrics today")
                super().log_batch(run_id, metrics=metrics, **more)

        picky = Picky(store)
        run = open_run(picky)
        run.write([scalars(1)])
        run.write([resumed(10**9 + 1, step=7)])
        picky.rejects = True
        with pytest.raises(SinkUnavailable, match=r"rejects everything written to run .*no metrics today"):
            run.write([scalars(10**9 + 2)])


@pytest.mark.parametrize(
    ("status", "shown"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("preempted", "KILLED"), ("killed", "KILLED")],
)
def test_the_end_of_a_run_has_its_time_status_and_reason(client: FakeMlflow, status: Any, shown: str) -> None:
    run = open_run(client)
    run.close(status, STARTED + 5, "x" * 10_000)
    stored = client.get_run(run.run_id)
    assert (stored.info.status, stored.info.end_time) == (shown, STARTED + 5)
    assert stored.data.tags["telemetry.status"] == status
    assert stored.data.tags["telemetry.reason"].startswith("xxx")
    run.close(status, 0, "")
    assert client.get_run(run.run_id).info.end_time == 1
