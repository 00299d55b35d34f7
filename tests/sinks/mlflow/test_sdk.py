"""The behavior of MlflowClient on which the sink relies, tested on the real client (with SQLite) and on the fake."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from sinks.mlflow.client import http_status, is_rejection
from support.fake_mlflow import FakeMlflow, FaultyMlflow
from support.mlflow_kit import IGNORE_NOLOAD, client_of, copy_store, history, quiet, shared_template

pytestmark = IGNORE_NOLOAD


@pytest.fixture(params=["real", "fake"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with quiet():
        if request.param == "fake":
            fake = FakeMlflow(tmp_path / "fake.jsonl")
            fake.create_experiment("Default")
            yield fake
        else:
            shared_template(request.config)
            yield client_of(copy_store(tmp_path))


@pytest.fixture
def run_id(client: Any) -> str:
    return str(client.create_run("0", start_time=5, tags={"k": "v"}, run_name="water").info.run_id)


def log(client: Any, run_id: str, *metrics: tuple[str, float, int, int], **others: Any) -> None:
    client.log_batch(run_id, metrics=[Metric(*m) for m in metrics], synchronous=True, **others)


def test_a_batch_logged_twice_is_stored_once(client: Any, run_id: str) -> None:
    for _ in range(2):
        log(client, run_id, ("m", 0.1, 7, 1), ("m", math.nan, 8, 2), ("m", 0.3, 9, 3))
    log(client, run_id, ("m", 0.3, 9, 3), ("m", 0.4, 10, 4))
    assert str(history(client, run_id, "m")) == str([(1, 0.1, 7), (2, math.nan, 8), (3, 0.3, 9), (4, 0.4, 10)])


def test_a_different_value_or_time_at_the_same_step_is_a_different_point(client: Any, run_id: str) -> None:
    log(client, run_id, ("m", 1.0, 7, 1), ("m", 2.0, 7, 1), ("m", 1.0, 8, 1))
    assert sorted(history(client, run_id, "m")) == [(1, 1.0, 7), (1, 1.0, 8), (1, 2.0, 7)]


def test_an_infinite_value_becomes_the_largest_number(client: Any, run_id: str) -> None:
    log(client, run_id, ("m", math.inf, 7, 1), ("m", -math.inf, 8, 2))
    assert history(client, run_id, "m") == [(1, 1.7976931348623157e308, 7), (2, -1.7976931348623157e308, 8)]


@pytest.mark.parametrize(
    "key", ["", "a[b]", "a,b", "a=b", "a%", "/a", "a/", "a//b", "a/./b", "a/../b", "..a/b", ".", "x" * 251]
)
def test_one_invalid_name_rejects_the_whole_batch(client: Any, run_id: str, key: str) -> None:
    with pytest.raises(MlflowException) as caught:
        log(client, run_id, ("good", 1.0, 7, 1), (key, 1.0, 7, 1), tags=[RunTag("t", "1")])
    assert is_rejection(caught.value)
    assert history(client, run_id, "good") == []
    assert "t" not in client.get_run(run_id).data.tags


@pytest.mark.parametrize("key", ["Å/r²SCAN", "a b:c-d_e.f", "a/...b", "x" * 250])
def test_a_name_of_letters_digits_and_some_punctuation_is_accepted(client: Any, run_id: str, key: str) -> None:
    log(client, run_id, (key, 1.0, 7, 1), params=[Param(key, "1")], tags=[RunTag(key, "1")])
    assert history(client, run_id, key) == [(1, 1.0, 7)]
    assert client.get_run(run_id).data.params == {key: "1"}


def test_a_changed_parameter_is_rejected_but_an_unchanged_one_is_accepted(client: Any, run_id: str) -> None:
    log(client, run_id, params=[Param("p", "1")])
    log(client, run_id, params=[Param("p", "1")])
    with pytest.raises(MlflowException) as caught:
        log(client, run_id, params=[Param("p", "2")])
    assert is_rejection(caught.value)
    assert client.get_run(run_id).data.params == {"p": "1"}


def test_long_values_are_truncated_silently(client: Any, run_id: str) -> None:
    log(client, run_id, params=[Param("p", "x" * 7000)], tags=[RunTag("t", "x" * 9000)])
    data = client.get_run(run_id).data
    assert (len(data.params["p"]), len(data.tags["t"])) == (6000, 8000)


def test_a_run_is_found_by_a_tag_and_returned_with_all_its_tags(client: Any, run_id: str) -> None:
    client.create_run("0", start_time=5, tags={"k": "other"})
    (found,) = client.search_runs(["0"], filter_string="tags.`k` = 'v'")
    assert found.info.run_id == run_id
    assert (found.info.run_name, found.info.start_time, found.info.status) == ("water", 5, "RUNNING")
    assert found.data.tags["k"] == "v"


def test_two_runs_can_be_created_with_the_same_tags(client: Any, run_id: str) -> None:
    client.create_run("0", start_time=5, tags={"k": "v"}, run_name="water")
    assert len(client.search_runs(["0"], filter_string="tags.`k` = 'v'")) == 2


def test_a_terminated_run_accepts_points_and_another_status(client: Any, run_id: str) -> None:
    client.set_terminated(run_id, status="KILLED", end_time=7)
    log(client, run_id, ("m", 1.0, 7, 1))
    client.update_run(run_id, status="RUNNING")
    assert client.get_run(run_id).info.status == "RUNNING"
    client.set_terminated(run_id, status="FINISHED", end_time=9)
    info = client.get_run(run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 9)
    assert history(client, run_id, "m") == [(1, 1.0, 7)]


def test_a_deleted_run_is_not_found_and_rejects_points(client: Any, run_id: str) -> None:
    client.delete_run(run_id)
    assert client.search_runs(["0"], filter_string="tags.`k` = 'v'") == []
    with pytest.raises(MlflowException) as caught:
        log(client, run_id, ("m", 1.0, 7, 1))
    assert is_rejection(caught.value)


def test_an_unknown_run_is_not_a_rejection(client: Any) -> None:
    with pytest.raises(MlflowException) as caught:
        log(client, "0" * 32, ("m", 1.0, 7, 1))
    assert http_status(caught.value) == 404


def test_an_experiment_can_be_created_once_and_is_found_even_if_deleted(client: Any) -> None:
    assert client.get_experiment_by_name("x") is None
    experiment_id = client.create_experiment("x", artifact_location="/nowhere")
    with pytest.raises(MlflowException):
        client.create_experiment("x")
    client.delete_experiment(experiment_id)
    found = client.get_experiment_by_name("x")
    assert (found.experiment_id, found.lifecycle_stage) == (experiment_id, "deleted")
    with pytest.raises(MlflowException):
        client.create_run(experiment_id, start_time=5)


def test_metrics_are_stored_even_if_the_tags_of_the_same_call_fail(
    client: Any, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This store writes metrics first; MLflow guarantees no order."""

    def fail(*_: Any) -> None:
        raise MlflowException("(sqlite3.OperationalError) disk I/O error")

    if isinstance(client, FakeMlflow):
        client = FaultyMlflow(tmp_path / "fake.jsonl", lambda call: "torn" if call == "log_batch" else None)
    else:
        monkeypatch.setattr(type(client._tracking_client.store), "_set_tags", fail)
    with pytest.raises(MlflowException):
        log(client, run_id, ("m", 1.0, 7, 1), tags=[RunTag("t", "1")])
    assert history(client, run_id, "m") == [(1, 1.0, 7)]
    assert "t" not in client.get_run(run_id).data.tags
