"""Training finishes when a validation metric no longer improves, exactly as if it had never been interrupted."""

import itertools
import math
from pathlib import Path

import pytest

from aimnet2mult.config.sections import EarlyStopping as Settings
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.statistics import MetricInfo
from aimnet2mult.train.checkpoint_peek import read_progress
from aimnet2mult.train.early_stopping import EarlyStopping
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from aimnet2mult.train.validation_metrics import ValidationMetrics
from support import tiny_model
from support.tiny_runs import newest_checkpoint, points, train_tiny
from telemetry import read_receipt

METRICS = ValidationMetrics(
    known={"loss": MetricInfo(text="loss", better="lower"), "E_r2": MetricInfo(text="R²", better="higher")},
    available=("loss", "E_r2"),
)


def stopping(metric: str | None = "loss", patience: int = 2, min_delta: float = 0.0) -> EarlyStopping:
    return EarlyStopping(Settings(metric=metric, patience=patience, min_delta=min_delta), METRICS)


def stop_at(stopping: EarlyStopping, values: list[float], first: int = 0) -> int | None:
    """Return the index of the value after which the training stops."""
    for index, value in enumerate(values[first:], start=first):
        stopping.update({"loss": value, "E_r2": -value}, 10 * (index + 1))
        if stopping.reason(10):
            return index
    return None


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "expected"),
    [
        ([3, 2, 1, 0], 1, 0.0, None),
        ([3, 2, 2, 2], 2, 0.0, 3),
        ([3, 2, 2.5, 1.9, 2, 2], 2, 0.0, 5),
        ([3, math.nan, math.nan], 2, 0.0, 2),
        ([math.nan, math.nan, 1], 2, 0.0, 1),
        ([math.nan, 1, math.inf, 0.5], 2, 0.0, None),
        # Compared with the last value that was an improvement, slow progress adds up.
        ([3, 2.95, 2.85, 2.8, 2.8], 2, 0.1, 4),
        ([3, 2.9, 2.8], 1, 0.11, 1),
    ],
)
@pytest.mark.parametrize("metric", ["loss", "val/loss", "E_r2"])
def test_the_training_stops_after_too_many_validations_without_an_improvement(
    metric: str, values: list[float], patience: int, min_delta: float, expected: int | None
) -> None:
    assert stop_at(stopping(metric, patience, min_delta), values) == expected


def test_a_missing_value_is_no_improvement() -> None:
    early = stopping(patience=1)
    early.update({}, 10)
    assert early.reason(10) == "val/loss has not improved in the last validation; it was never finite"


def test_without_a_metric_nothing_stops() -> None:
    assert stop_at(stopping(None, patience=1), [1, 2, 3]) is None


def test_the_state_is_exact_after_any_validation() -> None:
    values = [3, 2, 2.5, math.nan, 1.9, 2, 2.1, 2.2]
    for stop in range(len(values)):
        first, second = stopping(patience=3), stopping(patience=3)
        stop_at(first, values[:stop])
        second.load_state_dict(first.state_dict())
        assert stop_at(second, values, first=stop) == 7
        reason = "val/loss has not improved in the last 3 validations; the best was after iteration 50, in epoch 5"
        assert second.reason(10) == reason


def test_another_metric_starts_again() -> None:
    first, second = stopping("loss"), stopping("E_r2")
    stop_at(first, [1, 2, 3])
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == stopping("E_r2").state_dict()


# ---- runs

STILL = ("optimizer.kwargs.lr=0", "trainer.early_stopping.metric=val/E_rmse", "trainer.early_stopping.patience=2")
"""With a learning rate of 0, validations never change: the first one is the best."""
BEST = "val/E_rmse has not improved in the last 2 validations; the best was after iteration"


def test_a_run_finishes_after_the_validation_that_exhausts_the_patience(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, *STILL)
    assert list(points(run)) == [3, 6, 9]
    assert list(points(run, "train")) == [9]
    assert read_receipt(run).status == "finished"
    assert f"{BEST} 3, in epoch 1: finished" in capfd.readouterr().err
    assert train(Request(resume=str(run))) == 0
    error = capfd.readouterr().err
    assert f"nothing left to train: {BEST} 3, in epoch 1; increase trainer.early_stopping.patience to continue" in error
    assert "loading torch" not in error


def test_validations_within_epochs_count(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, *STILL, "log_frequency.val=2", "telemetry.every=5")
    assert list(points(run)) == [2, 4, 6]


def test_a_run_may_finish_within_an_epoch_with_a_point_at_its_last_iteration(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, *STILL, "log_frequency.val=4", "trainer.early_stopping.patience=1", "telemetry.every=7")
    assert {step: values["epoch"] for step, values in points(run, "train").items()} == {7: 3, 8: 3}
    assert read_progress(newest_checkpoint(run)).iteration == 8
    assert read_receipt(run).status == "finished"


def test_more_patience_or_another_metric_continues_a_finished_run(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, *STILL, "trainer.early_stopping.patience=1")
    assert list(points(run)) == [3, 6]
    assert train(Request(resume=str(run), overrides=["trainer.early_stopping.patience=2"])) == 0
    assert list(points(run)) == [3, 6, 9]
    assert train(Request(resume=str(run), overrides=["trainer.early_stopping.metric=null"])) == 0
    assert list(points(run)) == [3, 6, 9, 12]


def test_an_interrupted_run_stops_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    settings = ("trainer.epochs=12", "trainer.early_stopping={metric: q_rmse, patience: 2}", "optimizer.kwargs.lr=0.3")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = points(train_tiny(tmp_path / "a", *settings))
    curve = [point["q_rmse"] for point in whole.values()]
    best = list(itertools.accumulate(curve, min))
    waited = [len(best[: i + 1]) - 1 - best.index(best[i]) for i in range(len(best))]
    assert 0 < len(whole) < 12, "the example must stop early"
    assert [count >= 2 for count in waited] == [False] * (len(whole) - 1) + [True]
    tiny_model.Stopping.calls_left = 3 * len(whole) - 4
    run = train_tiny(tmp_path / "b", *settings)
    assert read_receipt(run).status == "preempted"
    assert train(Request(resume=str(run))) == 0
    assert points(run) == whole


def test_an_unknown_metric_is_reported_with_the_other_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        train_tiny(tmp_path, "trainer.early_stopping.metric=F_rmse", "checkpoint.best=F_mae")
    message = str(raised.value)
    assert "trainer.early_stopping.metric is 'F_rmse'; expected one of loss" in message
    assert "checkpoint.best is 'F_mae'; expected one of loss" in message


@pytest.mark.parametrize(
    ("override", "call"),
    [
        ("log_frequency.val=2", 6),
        ("log_frequency.val=2", 8),
        ("log_frequency.val=null", 8),
        ("log_frequency.val=null", 10),
    ],
    ids=[
        "a signal interrupts the last validation within an epoch",
        "a signal comes at its end",
        "a signal interrupts the last validation of an epoch",
        "a signal comes at the end of that",
    ],
)
def test_the_last_iteration_has_a_point_even_if_the_last_validation_is_interrupted(
    tmp_path: Path, override: str, call: int
) -> None:
    def curves(name: str, call: int | None) -> dict[str, dict[int, dict[str, float]]]:
        (tmp_path / name).mkdir()
        tiny_model.Stopping.calls_left = call
        run = train_tiny(
            tmp_path / name,
            override,
            "optimizer.kwargs.lr=0",
            "data.samplers.val.batch_size=2",
            "trainer.early_stopping={metric: loss, patience: 1}",
            "scheduler={class: torch.optim.lr_scheduler.ExponentialLR, step: iteration, kwargs: {gamma: 0.5}}",
        )
        if call is not None:
            assert read_receipt(run).status == "preempted"
            assert train(Request(resume=str(run))) == 0
        assert read_receipt(run).status == "finished"
        found = {stream: points(run, stream) for stream in ("train", "train_window", "val")}
        for values in found["train"].values():
            values.pop("it_per_s")
        return found

    expected, found = curves("whole", None), curves("resumed", call)
    assert list(expected["train"]) == [max(expected["val"])]
    assert found == expected
