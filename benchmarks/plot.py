"""The picture of ``docs/explanation/performance.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, OTHERS = "#1f6f8b", "#c8963e"
FLOOR = 0.1
"""The least that is drawn, in µs."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the due points and the iterations that are not due, and how costs grow."""
    mpl.use("agg")
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(left, [row for row in results["loops"] if not row["name"].startswith("bare")])
    _lines(right, [row for row in results["micro"] if row["size"] is not None])
    figure.savefig(path, dpi=110)


def _bars(axes: Axes, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows))
    colours = [OURS if row["title"].startswith("this package") else OTHERS for row in rows]
    due = [max(FLOOR, row["due_p50_us"]) for row in rows]
    axes.barh(places, due, color=colours, height=0.6)
    for place, row, median in zip(places, rows, due, strict=True):
        axes.plot([median, max(median, row["due_p99_us"])], [place, place], color="black", linewidth=1)
        axes.plot([max(FLOOR, row["idle_p50_us"])], [place], "o", color="white", markeredgecolor="black", markersize=5)
    axes.set_yticks(places, [row["title"].replace("`", "") for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(
        "µs beyond the bare loop: bars are a due point's median, lines lead to its p99,\ncircles are iterations not due"
    )


def _lines(axes: Axes, rows: list[dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"].removeprefix("growth: "), []).append(row)
    for group, found in groups.items():
        found.sort(key=lambda row: row["size"])
        first = found[0]
        axes.plot(
            [row["size"] / first["size"] for row in found],
            [row["median_us"] / first["median_us"] for row in found],
            marker="o",
            markersize=3,
            label=group,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("size, as a multiple of the smallest")
    axes.set_ylabel("median cost, as a multiple of that of the smallest")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12))
