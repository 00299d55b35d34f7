"""Plots as lines of text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.written_runs import WrittenRun
from telemetry import Metric, read_run
from telemetry.display.plot_layout import plots
from telemetry.display.terminal_plot import draw, side_by_side

pytest.importorskip("plotext")


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def drawn(run: WrittenRun, height: int = 14) -> list[str]:
    (plot,) = plots([read_run(run.folder)])
    return draw(plot, width=80, height=height, colours=False)


def test_a_curve_rises_and_falls_with_its_values(run: WrittenRun) -> None:
    for step in range(11):
        run.point("train/loss", step, float(step))
        run.point("val/loss", step, 10.0 - step)
    lines = [line.replace("┤", "│") for line in drawn(run, height=12) if "┤" in line or "│" in line]
    inner = [line.partition("│")[2].rpartition("│")[0] for line in lines]
    assert inner[0].strip().startswith("o")
    assert inner[0].strip().endswith("*")
    assert inner[-1].strip().startswith("*")
    assert inner[-1].strip().endswith("o")


def test_non_finite_points_are_omitted_and_counted(run: WrittenRun) -> None:
    for step, value in enumerate([1.0, math.nan, 2.0, math.inf]):
        run.point("train/loss", step, value)
    run.point("val/loss", 1, math.nan)
    lines = drawn(run)
    assert "* train: last 2 at 2, lowest 1 at 0" in lines
    assert "o val: no finite value" in lines
    assert "train: 2 of 4 points not finite, the last inf at 3" in lines


def test_the_legend_contains_the_best_value(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run", metrics={"val/E_r2": Metric(better="higher"), "train/E_r2": Metric()})
    for step, value in enumerate([-2.0, 0.9, 0.8]):
        run.point("val/E_r2", step, value)
        run.point("train/E_r2", step, value)
    assert {"o train: last 0.8 at 2, highest 0.9 at 1", "* val: last 0.8 at 2, highest 0.9 at 1"} <= {*drawn(run)}


def test_a_plot_without_finite_values_consists_of_its_legend(run: WrittenRun) -> None:
    run.point("train/loss", 1, math.nan)
    lines = drawn(run)
    assert "* train: no finite value" in lines
    assert not any("┌" in line for line in lines)


def test_blocks_of_different_heights_are_placed_side_by_side() -> None:
    assert side_by_side([["\x1b[94mab\x1b[0m", "c"], ["d"]], width=3, gap=2) == ["\x1b[94mab\x1b[0m   d", "c"]
