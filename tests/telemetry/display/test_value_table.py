"""The table of latest and best values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.written_runs import WrittenRun
from telemetry import Metric, read_run
from telemetry.display.plot_layout import plots
from telemetry.display.styles import styles
from telemetry.display.value_table import table


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    metrics = {
        "train/loss": Metric(better="lower"),
        "train/lr": Metric(),
        "val/loss": Metric(better="lower"),
        "val/E_r2": Metric(better="higher"),
    }
    return WrittenRun(tmp_path / "run", metrics=metrics)


def tabulated(run: WrittenRun, *patterns: str, width: int = 80) -> list[str]:
    found = plots([read_run(run.folder)], patterns)
    return table(found, styles(found), width, colors=False)


def test_best_values_are_those_of_the_validation_and_depend_on_the_direction(run: WrittenRun) -> None:
    for step, value in enumerate([0.5, 0.25, 0.75, 0.25, 0.5]):
        run.points("train", step, {"loss": value / 2, "lr": 0.1})
        run.points("val", step, {"loss": value, "E_r2": value})
    assert [line.split() for line in tabulated(run)] == [
        ["loss", "E_r2", "lr"],
        [".", "train", "at", "4", "0.25", "0.1"],
        ["#", "val", "at", "4", "0.5", "0.5"],
        ["best", "0.25", "0.75"],
        ["at", "iteration", "1", "2"],
    ]


def test_a_metric_without_a_direction_has_no_best_value(run: WrittenRun) -> None:
    run.point("train/lr", 1, 0.1)
    assert [line.split() for line in tabulated(run)] == [["lr"], ["o", "train", "at", "1", "0.1"]]


def test_non_finite_points_are_counted_and_are_not_the_best(run: WrittenRun) -> None:
    for step, value in enumerate([1.0, math.nan, 2.0, -math.inf]):
        run.point("val/loss", step, value)
    assert [line.split() for line in tabulated(run)[1:-1]] == [
        ["#", "val", "at", "3", "-inf"],
        ["lowest", "1"],
        ["at", "iteration", "0"],
    ]
    assert tabulated(run)[-1] == "val/loss: 2 of 4 points not finite, the last -inf at 3"


def test_columns_that_do_not_fit_continue_below(tmp_path: Path) -> None:
    names = [f"val/metric{n}" for n in range(12)]
    run = WrittenRun(tmp_path / "run", metrics={name: Metric(unit="kcal/mol") for name in names})
    run.points("val", 1, {name.partition("/")[2]: 0.25 for name in names})
    lines = tabulated(run, width=60)
    assert max(map(len, lines)) <= 60
    assert [word for line in lines for word in line.split() if word.startswith("metric")] == [n[4:] for n in names]
    assert sum(line.count("0.25") for line in lines) == 12
