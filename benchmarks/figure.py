"""Draw the figure of ``docs/explanation/performance.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

THIS_PACKAGE, OTHERS = "#1f6f8b", "#c8963e"
"""Colors of the bars."""
MIN_DRAWN = 0.1
"""Smaller times are drawn as this value, in µs."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the overhead of each variant, at due points and otherwise, and how costs scale."""
    mpl.use("agg")
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_overhead(left, [row for row in results["loops"] if not row["name"].startswith("bare")])
    _draw_scaling(right, [row for row in results["micro"] if row["size"] is not None])
    figure.savefig(path, dpi=110)


def _draw_overhead(axes: Axes, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows))
    colors = [THIS_PACKAGE if row["title"].startswith("this package") else OTHERS for row in rows]
    due = [max(MIN_DRAWN, row["due_p50_us"]) for row in rows]
    axes.barh(places, due, color=colors, height=0.6)
    for place, row, median in zip(places, rows, due, strict=True):
        idle = max(MIN_DRAWN, row["idle_p50_us"])
        axes.plot([median, max(median, row["due_p99_us"])], [place, place], color="black", linewidth=1)
        axes.plot([idle], [place], "o", color="white", markeredgecolor="black", markersize=5)
    axes.set_yticks(places, [row["title"].replace("`", "") for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(
        "overhead relative to the bare loop in µs; bars: median of due points,\n"
        "lines: up to their p99, circles: iterations that are not due"
    )


def _draw_scaling(axes: Axes, rows: list[dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
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
    axes.set_xlabel("size relative to the smallest")
    axes.set_ylabel("median cost relative to the smallest size")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12))
