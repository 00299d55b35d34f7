"""What is drawn: grouping of curves, choice of scale, downsampling."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.written_runs import METRICS, WrittenRun, add_training
from telemetry import Metric, read_run
from telemetry.display.plot_layout import downsample, plots, run_labels


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def test_metrics_with_the_same_name_share_a_plot_across_streams(run: WrittenRun) -> None:
    add_training(run)
    found = plots([read_run(run.folder)])
    assert [(plot.heading, plot.title, [each.label for each in plot.series]) for plot in found] == [
        ("overall", "loss", ["train", "val"]),
        ("overall", "RMSE of energy [kcal/mol]", ["train", "val"]),
        ("overall", "learning rate", ["train"]),
        ("gfn1", "RMSE of energy, gfn1 [kcal/mol]", ["val"]),
    ]


def test_runs_share_a_plot_unless_their_units_differ(run: WrittenRun, tmp_path: Path) -> None:
    other = WrittenRun(tmp_path / "ice", metrics=METRICS | {"val/E_rmse": Metric(unit="eV", label="RMSE of energy")})
    add_training(run)
    add_training(other)
    found = plots([read_run(run.folder), read_run(other.folder)], ["E_rmse"])
    assert [(plot.title, [each.label for each in plot.series]) for plot in found] == [
        ("RMSE of energy [kcal/mol]", ["water train", "water val", "ice train"]),
        ("RMSE of energy [eV]", ["ice val"]),
    ]


def test_runs_with_the_same_name_have_distinct_labels(tmp_path: Path) -> None:
    runs = [read_run(WrittenRun(tmp_path / folder, name="same").folder) for folder in ("a", "b")]
    assert run_labels(runs) == ["a", "b"]
    copies = [read_run(WrittenRun(tmp_path / f / "x", name="same").folder) for f in ("c", "d")]
    assert run_labels(copies) == [str(tmp_path / "c" / "x"), str(tmp_path / "d" / "x")]
    assert len(set(run_labels([copies[0], copies[0]]))) == 2


def test_the_last_iterations_are_counted_from_the_end_of_the_run(run: WrittenRun) -> None:
    add_training(run)
    (plot,) = plots([read_run(run.folder)], ["loss"], last=600)
    assert [each.curve.steps.tolist() for each in plot.series] == [[*range(1500, 2001, 100)], [1500, 2000]]
    assert plots([read_run(run.folder)], ["val/loss"], last=1)[0].series[0].curve.steps.tolist() == [2000]


def test_alerts_belong_to_the_plots_of_their_metric_or_to_all(run: WrittenRun) -> None:
    add_training(run)
    run.alert(500, "spike", metric="train/loss")
    run.alert(600, "silence")
    run.alert(700, "over", metric="train/loss", recovered=True)
    found = {plot.title: [alert.title for alert in plot.alerts] for plot in plots([read_run(run.folder)])}
    assert found["loss"] == ["spike", "silence"]
    assert found["learning rate"] == ["silence"]


@pytest.mark.parametrize(
    ("values", "is_log"),
    [
        ([math.exp(-i / 5) for i in range(50)], True),
        ([*range(1, 100)], False),
        ([1.0, 1.1, 1.2], False),
        ([-1.0, 0.01, 0.1, 100.0], False),
        ([0.0, 0.01, 0.1, 100.0], False),
        ([math.nan, math.inf], False),
        ([1e-5, 2e-5, 3e-5, math.nan, math.inf, 1.0], True),
        ([5e-324, 1.7e308], False),
    ],
)
def test_the_scale_is_logarithmic_if_most_values_crowd_at_the_bottom_of_a_linear_one(
    run: WrittenRun, values: list[float], is_log: bool
) -> None:
    for step, value in enumerate(values):
        run.point("train/loss", step, value)
    (plot,) = plots([read_run(run.folder)])
    assert plot.is_log == is_log


def test_downsampling_keeps_the_extremes_and_the_last_point(run: WrittenRun) -> None:
    values = [math.sin(i / 7) for i in range(5000)]
    values[1234], values[3456], values[4000] = 9.0, -9.0, math.nan
    for step, value in enumerate(values):
        run.point("train/loss", step, value)
    steps, kept = downsample(read_run(run.folder).curves["train/loss"], 50)
    assert len(steps) <= 102
    assert (kept.max(), kept.min(), steps[-1]) == (9.0, -9.0, 4999)
    assert all(values[step] == value for step, value in zip(steps, kept, strict=True))
