"""Figures drawn with matplotlib."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from support.written_runs import WrittenRun, add_training
from telemetry import Metric, RunFolderError, SettingError, read_run
from telemetry.display.plot_layout import Plot, plots
from telemetry.display.png import MAX_PLOTS, draw_figure, write_png

pytest.importorskip("matplotlib")


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def test_the_file_is_a_png_of_legible_size(run: WrittenRun, tmp_path: Path) -> None:
    add_training(run)
    path = tmp_path / "water.png"
    write_png(path, plots([read_run(run.folder)]), "water")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 500


def test_a_file_that_cannot_be_written_is_an_error(run: WrittenRun, tmp_path: Path) -> None:
    add_training(run)
    with pytest.raises(RunFolderError, match=r"cannot be written \(No such file or directory\)"):
        write_png(tmp_path / "no" / "such" / "x.png", plots([read_run(run.folder)]), "water")


def test_each_chart_contains_the_points_of_its_curves(run: WrittenRun) -> None:
    add_training(run)
    read = read_run(run.folder)
    figure = draw_figure(plots([read]), "water")
    loss, energy, rate, part = figure.axes
    assert [axes.get_title() for axes in figure.axes][:2] == ["loss", "RMSE of energy [kcal/mol]"]
    assert (loss.get_yscale(), rate.get_yscale()) == ("log", "linear")
    for line, name in zip(loss.lines, ("train/loss", "val/loss"), strict=True):
        assert list(line.get_xdata()) == read.curves[name].steps.tolist()
        assert list(line.get_ydata()) == read.curves[name].values.tolist()
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "val"]
    # A stream has the same color in all charts.
    assert loss.lines[1].get_color() == energy.lines[1].get_color() == part.lines[0].get_color()


def test_each_of_several_runs_has_a_color_and_each_stream_a_line_style(run: WrittenRun, tmp_path: Path) -> None:
    other = WrittenRun(tmp_path / "ice")
    add_training(run)
    add_training(other)
    (axes,) = draw_figure(plots([read_run(run.folder), read_run(other.folder)], ["loss"]), "both").axes
    assert [line.get_label() for line in axes.lines] == ["water train", "water val", "ice train", "ice val"]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert axes.lines[0].get_linestyle() == axes.lines[2].get_linestyle() != axes.lines[1].get_linestyle()


def test_alerts_are_vertical_lines_with_their_titles(run: WrittenRun) -> None:
    add_training(run)
    run.alert(500, "a spike of $5")
    (axes,) = draw_figure(plots([read_run(run.folder)], ["lr"]), "").axes
    assert list(axes.lines[-1].get_xdata()) == [500, 500]
    assert [text.get_text() for text in axes.texts] == [r"a spike of \$5"]


def test_non_finite_points_are_omitted_and_counted(run: WrittenRun) -> None:
    for step, value in enumerate([1.0, math.nan, 2.0]):
        run.point("train/loss", step, value)
    (axes,) = draw_figure(plots([read_run(run.folder)]), "").axes
    assert axes.get_legend().get_texts()[0].get_text() == "train (1 not finite)"
    assert list(axes.lines[0].get_ydata()) == [1.0, 2.0]


def test_markup_in_names_and_extreme_values_are_drawn(tmp_path: Path) -> None:
    run = WrittenRun(
        tmp_path / "run", name="$\\frac{$", metrics={"_a/_b": Metric(label="日本\x1b[2J$x^{", unit="$\\nonsense{")}
    )
    largest = 1.7976931348623157e308
    for step in range(10):
        run.points("_a", step, {"_b": (-1) ** step * largest, "c": 5e-324 * step, "d": largest / (step + 1)})
    run.points("e", (1 << 62) // 1001, {"f": math.nan})
    run.alert(3, "$\\frac{")
    read = read_run(run.folder)
    write_png(tmp_path / "x.png", plots([read]), read.header.name)
    assert (tmp_path / "x.png").stat().st_size > 0


@pytest.mark.parametrize("count", [0, MAX_PLOTS + 1])
def test_no_charts_and_too_many_charts_are_errors(count: int) -> None:
    with pytest.raises(SettingError, match=f"a figure holds 1 to {MAX_PLOTS} charts, not {count}"):
        draw_figure([Plot(heading="", title="")] * count, "")
