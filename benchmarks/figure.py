"""Draw the figure of ``docs/explanation/performance.md``: a panel for each question."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

THIS_PACKAGE, OTHERS = "#0072b2", "#e69f00"
"""Colors of the bars; like those of the curves, from the palette of Okabe and Ito for color-blind readers."""
CURVES, MARKERS = ("#0072b2", "#d55e00", "#009e73"), "os^"
SIZE = (10.5, 15.0)
"""Width and height in inches. Text of 11 points is at least 8 points where the page scales the figure to 7.6 inches."""
MIN_DRAWN = 1.0
"""Smaller times are drawn as this value, in µs."""
MAX_TICKS = 5
"""Number of sizes of a panel up to which each is labeled; beyond, only powers of ten are."""
HIDDEN = ("bare", "bare-ignite", "bare-lightning")

Row = dict[str, Any]


class Scaling(NamedTuple):
    """A panel of costs by size: its title, the label of its horizontal axis, the curves by group, and their legend.

    Times that span orders of magnitude are drawn on a logarithmic axis, the others on one that begins at zero.
    """

    title: str
    x_label: str
    curves: dict[str, str]
    is_log: bool = False
    legend: str = "lower right"


SCALING = (
    Scaling(
        "How do the error sums grow with the batch?",
        "structures of 20 atoms per batch",
        {
            "error sums, by structures per batch": "this package",
            "plain torch label by label, by structures per batch": "plain torch",
        },
        is_log=True,
        legend="upper left",
    ),
    Scaling(
        "How do they grow with labels and fidelities?",
        "number of labels or fidelities",
        {
            "error sums, by number of labels": "labels (2 fidelities)",
            "error sums, by number of fidelities": "fidelities (4 labels)",
        },
    ),
    Scaling(
        "How does a point grow with the number of sinks?",
        "number of sinks",
        {"publish, by number of sinks": "publish"},
    ),
    Scaling(
        "How do points and deliveries grow with the run?",
        "number of earlier points, or of points to deliver",
        {
            "publish, by number of earlier points": "publish",
            "reading one new record, by number of earlier records": "read one point",
            "delivery, by backlog": "deliver all points",
        },
        is_log=True,
        legend="center left",
    ),
)


def draw(results: Row, path: Path) -> None:
    """Draw the cost of an iteration, of a due point and of a whole run for each variant, and how costs grow."""
    mpl.use("agg")
    with mpl.rc_context({"font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(10, 6)).flat
        _draw_costs(top, [row for row in results["loops"] if row["name"] not in HIDDEN])
        _draw_scaling(bottom, results["micro"])
        figure.savefig(path, dpi=100)


def _draw_costs(figure: SubFigure, rows: list[Row]) -> None:
    iteration, point, run = figure.subplots(1, 3, sharey=True)
    _draw_bars(iteration, rows, [row["each_us"] for row in rows])
    iteration.set_title("What does an iteration cost?")
    iteration.set_xlabel("time added to each iteration,\nmean [µs]")
    _draw_bars(point, rows, [row["due_p50_us"] for row in rows], [row["due_p99_us"] for row in rows])
    point.set_title("What does a due point cost?")
    point.set_xlabel("time added at a due point, median;\nlines: to the 99th percentile [µs]")
    _draw_bars(run, rows, [100 * (row["ratio"] - 1) for row in rows], unit=" %", least=0.1)
    run.set_title("How much longer is a run?")
    (bare,) = {row["step_us"] / row["ratio"] for row in rows if row["name"] == "none"}
    run.set_xlabel(f"time added to a run with\nsteps of only {bare / 1e3:.2f} ms [%]")
    titles = [textwrap.fill(row["title"].replace("`", "").removeprefix("this package, "), 30) for row in rows]
    iteration.set_yticks(range(len(rows)), titles)
    iteration.set_ylim(len(rows) - 0.5, -0.5)
    legend = [Patch(color=THIS_PACKAGE, label="this package"), Patch(color=OTHERS, label="other loggers")]
    figure.legend(handles=legend, loc="outside upper center", ncols=2, frameon=False)


def _draw_bars(
    axes: Axes,
    rows: list[Row],
    values: list[float],
    tails: list[float] | None = None,
    *,
    unit: str = "",
    least: float = MIN_DRAWN,
) -> None:
    colors = [THIS_PACKAGE if row["title"].startswith("this package") else OTHERS for row in rows]
    drawn = [max(value, least) for value in values]
    ends = drawn if tails is None else [max(pair) for pair in zip(drawn, tails, strict=True)]
    axes.barh(range(len(rows)), drawn, color=colors, height=0.7)
    axes.hlines(range(len(rows)), drawn, ends, color="black", linewidth=1)
    for place, (value, end) in enumerate(zip(values, ends, strict=True)):
        text = f"< {least:g}" if value < least else _text(value)
        axes.annotate(text + unit, (end, place), (3, 0), textcoords="offset points", verticalalignment="center")
    axes.set_xscale("log")
    # Room for the text after the longest bar.
    axes.set_xlim(least / 2, 50 * max(ends))
    axes.tick_params(axis="y", length=0)


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004 - two digits


def _draw_scaling(figure: SubFigure, rows: list[Row]) -> None:
    for axes, panel in zip(figure.subplots(2, 2).flat, SCALING, strict=True):
        curves = {
            group: sorted((row["size"], row["median_us"]) for row in rows if row["group"] == group)
            for group in panel.curves
        }
        curves = {group: curve for group, curve in curves.items() if curve}
        for number, group in enumerate(curves):
            axes.plot(
                *zip(*curves[group], strict=True),
                marker=MARKERS[number],
                color=CURVES[number],
                label=panel.curves[group],
            )
            for size, time in curves[group]:
                place: dict[str, Any] = {"xytext": (0, 6 if number else -16), "textcoords": "offset points"}
                axes.annotate(_text(time), (size, time), horizontalalignment="center", color=CURVES[number], **place)
        sizes = sorted({size for curve in curves.values() for size, _ in curve})
        times = [time for curve in curves.values() for _, time in curve]
        axes.set_xscale("log")
        if len(sizes) > MAX_TICKS:
            sizes = [size for size in sizes if math.log10(size).is_integer()]
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.margins(x=0.1)
        if panel.is_log:
            axes.set_yscale("log")
            axes.set_ylim(min(times) / 4, max(times) * 3)
        else:
            axes.set_ylim(0, max(times) * 1.3)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel("median time [µs]")
        if len(curves) > 1:
            axes.legend(frameon=False, loc=panel.legend)
