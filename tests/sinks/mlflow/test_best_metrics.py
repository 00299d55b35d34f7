"""The best validation values in MLflow, over attempts and kills."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from sinks.mlflow.run import MlflowRun
from support.fake_mlflow import FakeMlflow, FaultyMlflow
from support.mlflow_kit import history, rejection
from support.written_runs import WrittenRun
from telemetry import Metric
from telemetry.records import AnyRecord
from telemetry.sink_api import RunRecord
from telemetry.testing.points import run_record, scalars

ERROR = Metric(unit="kcal/mol", better="lower", main=True)
METRICS = {
    "train/E_rmse": ERROR,
    "val/E_rmse": ERROR,
    "val/E_r2": Metric(better="higher", main=True),
    "val/E_mae": Metric(better="lower"),
    "val/lr": Metric(main=True),
}
RUN = run_record("water", metrics=METRICS)
BEST = "best/val/E_rmse"


@pytest.fixture
def client(tmp_path: Path) -> FakeMlflow:
    client = FakeMlflow(tmp_path / "fake.jsonl")
    client.create_experiment("water")
    return client


def open_run(client: Any, folder: Path, record: RunRecord = RUN) -> MlflowRun:
    return MlflowRun(client, "0", record, folder, "a name")


def val(seq: int, step: int, error: float, **values: float) -> AnyRecord:
    return scalars(seq, step, "val", E_rmse=error, **values)


def best(client: Any, run: MlflowRun) -> dict[str, float]:
    metrics = client.get_run(run.run_id).data.metrics
    return {name: value for name, value in metrics.items() if name.startswith("best/")}


def test_the_best_value_follows_the_direction_and_only_main_metrics_with_a_direction_have_one(
    client: FakeMlflow, tmp_path: Path
) -> None:
    run = open_run(client, tmp_path)
    run.write([scalars(1, 10, E_rmse=1.0), val(2, 10, 5.0, E_r2=0.5, E_mae=1.0, lr=1.0)])
    run.write([val(3, 20, math.nan, E_r2=0.75), val(4, 30, 7.0, E_r2=math.inf), val(5, 40, 4.0, E_r2=0.25)])
    assert best(client, run) == {BEST: 4.0, "best/val/E_r2": 0.75}
    assert [(step, value) for step, value, _ in history(client, run.run_id, BEST)] == [
        (10, 5.0),
        (20, 5.0),
        (30, 5.0),
        (40, 4.0),
    ]
    assert client.get_run(run.run_id).data.tags["telemetry.best"] == (
        "val/E_rmse [kcal/mol] 4 at iteration 40; val/E_r2 0.75 at iteration 20"
    )


def test_without_main_metrics_all_with_a_direction_have_one(client: FakeMlflow, tmp_path: Path) -> None:
    metrics = {name: Metric(better=metric.better) for name, metric in METRICS.items()}
    run = open_run(client, tmp_path, run_record("water", metrics=metrics))
    run.write([val(1, 10, 5.0, E_r2=0.5, E_mae=1.0, lr=1.0)])
    assert best(client, run) == {BEST: 5.0, "best/val/E_r2": 0.5, "best/val/E_mae": 1.0}


def test_a_metric_of_the_run_with_the_same_name_is_left_alone(client: FakeMlflow, tmp_path: Path) -> None:
    run = open_run(client, tmp_path, run_record("water", metrics={"val/E_rmse": ERROR, BEST: ERROR}))
    run.write([val(1, 10, 5.0), scalars(2, 10, "best", **{"val/E_rmse": 3.0})])
    assert best(client, run) == {BEST: 3.0}


def written(folder: Path) -> list[AnyRecord]:
    """Write a journal of three attempts, and return its records for sinks."""
    run = WrittenRun(folder, metrics={"val/E_rmse": ERROR})
    for step, error in ((100, 9.0), (200, 8.0), (300, 1.0), (400, 2.0)):
        run.point("val/E_rmse", step, error)
    run.begin(resume_step=200)
    for step, error in ((300, 7.0), (350, 3.0)):
        run.point("val/E_rmse", step, error)
    run.begin(resume_step=300)
    run.point("val/E_rmse", 350, 7.5)
    from telemetry.journal.reader import JournalReader

    return JournalReader(folder, superseded=True).read(100, live=False)


def test_after_a_rewind_the_best_value_is_that_of_the_valid_points_wherever_delivery_is_interrupted(
    client: FakeMlflow, tmp_path: Path
) -> None:
    records = written(tmp_path / "water")
    # As NumPy would give for the points that are valid after each record; 0 to 3 are those of attempt 1.
    expected = [9.0, 8.0, 1.0, 1.0, 8.0, 7.0, 3.0, 7.0, 7.0]
    assert len(records) == len(expected)
    for number, value in enumerate(expected):
        run = open_run(client, tmp_path / "water", run_record("water", metrics={"val/E_rmse": ERROR}))
        run.write([records[number]])
        assert best(client, run) == {BEST: value}, records[number]
    points = history(client, run.run_id, BEST)
    assert len(points) == len(expected)
    # The same in one call, by one instance.
    other = open_run(client, tmp_path / "other" / "water", run_record("other", metrics={"val/E_rmse": ERROR}))
    other.write(records)
    assert history(client, other.run_id, BEST) == points


def test_if_no_valid_value_remains_the_best_value_is_nan(client: FakeMlflow, tmp_path: Path) -> None:
    written_run = WrittenRun(tmp_path / "water", metrics={"val/E_rmse": ERROR})
    written_run.point("val/E_rmse", 100, 9.0)
    written_run.begin(resume_step=50)
    from telemetry.journal.reader import JournalReader

    run = open_run(client, tmp_path / "water", run_record("water", metrics={"val/E_rmse": ERROR}))
    for record in JournalReader(tmp_path / "water", superseded=True).read(100, live=False):
        run.write([record])
    assert math.isnan(best(client, run)[BEST])


@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("failure", ["refused", "lost", "torn"])
def test_a_failed_call_loses_and_repeats_no_best_value(tmp_path: Path, failing_call: int, failure: str) -> None:
    client = FakeMlflow(tmp_path / "fake.jsonl")
    client.create_experiment("water")
    records = written(tmp_path / "water")
    calls: list[str] = []

    def fault(name: str) -> str | None:
        calls.append(name)
        return failure if name == "log_batch" and calls.count("log_batch") == failing_call else None

    record = run_record("water", metrics={"val/E_rmse": ERROR})
    with pytest.raises(MlflowException):
        open_run(FaultyMlflow(tmp_path / "fake.jsonl", fault), tmp_path / "water", record).write(records)
    run = open_run(client, tmp_path / "water", record)
    run.write([each for each in records if each.seq > run.last_seq])
    assert best(client, run) == {BEST: 7.0}
    assert len(history(client, run.run_id, BEST)) == len(records)


def test_rejected_best_values_do_not_prevent_delivery(client: FakeMlflow, tmp_path: Path) -> None:
    class Picky(FakeMlflow):
        def log_batch(self, run_id: str, metrics: Any = (), **more: Any) -> None:
            if any(metric.key.startswith("best/") for metric in metrics):
                raise rejection("no slashes today")
            super().log_batch(run_id, metrics=metrics, **more)

    run = open_run(Picky(tmp_path / "fake.jsonl"), tmp_path)
    assert run.write([val(1, 10, 5.0)]) == 1
    assert best(client, run) == {}


def test_many_best_values_are_divided_into_calls(client: FakeMlflow, tmp_path: Path) -> None:
    run = open_run(client, tmp_path)
    run.write([val(seq, 10 * seq, 1 / seq, E_r2=1.0) for seq in range(1, 1001)])
    assert best(client, run) == {BEST: 0.001, "best/val/E_r2": 1.0}
    assert len(history(client, run.run_id, BEST)) == 1000
