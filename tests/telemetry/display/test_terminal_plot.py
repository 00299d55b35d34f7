"""Plots as lines of text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from support.written_runs import WrittenRun
from telemetry import read_run
from telemetry.display.plot_layout import plots
from telemetry.display.styles import styles
from telemetry.display.terminal_plot import draw, side_by_side

pytest.importorskip("plotext")


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def drawn(run: WrittenRun, *, width: int = 80, height: int = 14) -> list[str]:
    (plot,) = plots([read_run(run.folder)])
    return draw(plot, styles([plot]), width=width, height=height, colors=False)


def test_a_curve_rises_and_falls_with_its_values(run: WrittenRun) -> None:
    for step in range(11):
        run.point("train/loss", step, float(step))
        run.point("val/loss", step, 10.0 - step)
    lines = [line.replace("┤", "│") for line in drawn(run, height=12) if "┤" in line or "│" in line]
    inner = [line.partition("│")[2].rpartition("│")[0] for line in lines]
    assert inner[0].strip().startswith("#")
    assert inner[0].strip().endswith(".")
    assert inner[-1].strip().startswith(".")
    assert inner[-1].strip().endswith("#")


def test_a_plot_without_finite_values_has_a_note(run: WrittenRun) -> None:
    run.point("train/loss", 1, math.nan)
    assert [line.strip() for line in drawn(run)] == ["loss, lower is better", "no finite values"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([3e-3, 0.02, 0.02, 0.4], ["0.2", "0.1", "0.05", "0.02", "0.01", "0.005"]),
        ([1.1, 1.2, 1.3, 40.0], ["20", "10", "5", "2"]),
        ([1e-9, 2e-9, 1e-8, 1.0], ["0.1", "0.001", "1e-05", "1e-07", "1e-09"]),
    ],
)
def test_ticks_on_a_logarithmic_scale_are_round(run: WrittenRun, values: list[float], ticks: list[str]) -> None:
    for step, value in enumerate(values):
        run.point("train/loss", step, value)
    found = [line.partition("┤")[0].strip() for line in drawn(run, height=20) if "┤" in line]
    assert found == ticks


@pytest.mark.parametrize(
    ("width", "title"),
    [
        (80, "RMSE of energy [kcal/mol], log scale, lower is better"),
        (45, "RMSE of energy [kcal/mol], lower is better"),
        (38, "RMSE of energy [kcal/mol], log scale"),
        (25, "RMSE of energy [kcal/mol]"),
        (20, "RMSE of energy [kca…"),
    ],
)
def test_the_title_has_unit_scale_and_direction_as_far_as_they_fit(run: WrittenRun, width: int, title: str) -> None:
    for step in range(10):
        run.point("val/E_rmse", step, 10.0**-step)
    assert drawn(run, width=width)[0].strip() == title


def test_blocks_of_different_heights_are_placed_side_by_side() -> None:
    assert side_by_side([["\x1b[94mab\x1b[0m", "c"], ["d"]], width=3, gap=2) == ["\x1b[94mab\x1b[0m   d", "c"]
