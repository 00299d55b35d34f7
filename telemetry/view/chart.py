"""A chart of the page with its lines and marks, which are replaced while runs grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bokeh.models import ColumnDataSource, DataRange1d, PlainText
from bokeh.plotting import figure

from telemetry.display.plot_layout import Plot, Series
from telemetry.view.chart_list import ChartSpec, stream_of
from telemetry.view.figures import GREY, draw
from telemetry.view.lines import Line, Mark, Window, alert_marks, new_line, non_finite_marks
from telemetry.view.run_entry import RunEntry
from telemetry.view.style import LEVEL_COLORS, run_styles, stream_styles
from telemetry.view.summary import Curves, summarize_chart

MAX_POINTS_OF_SEVERAL = 100_000
"""Number of points drawn in a chart of many lines; each line has at least MIN_STRETCHES stretches with two points."""
MAX_STRETCHES, MIN_STRETCHES = 500, 100


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of the curves, and how.

    Attributes:
        runs: the selected runs.
        streams: all streams of these runs, in order of declaration.
        shown: the streams that are shown.
        window: the iterations that are shown; None for all.
        smoothing: number of points that are averaged; 1 for none.
        stretches: maximum number of stretches of each curve, with two points each; None for as many as are useful.
    """

    runs: Sequence[RunEntry]
    streams: Sequence[str]
    shown: Sequence[str]
    window: Window | None = None
    smoothing: int = 1
    stretches: int = MAX_STRETCHES


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with at least one line; ``figures`` draw the same lines on different scales, the default one first."""

    spec: ChartSpec
    lines: Sequence[Line]
    marks: ColumnDataSource = field(default_factory=lambda: ColumnDataSource(data={"x": [], "color": [], "text": []}))
    figures: list[figure] = field(default_factory=list)

    def update(self, view: View, curves: Curves) -> None:
        """Draw the newest points, marks and summary."""
        stretches = max(MIN_STRETCHES, min(view.stretches, MAX_POINTS_OF_SEVERAL // (2 * len(self.lines))))
        for line in self.lines:
            curve = curves[line.run, line.name]
            line.show(curve, stretches=stretches, window=view.window, smoothing=view.smoothing)
        marks = [mark for entry in view.runs for mark in self._marks(entry, curves, several=len(view.runs) > 1)]
        data = {
            "x": [mark.step for mark in marks],
            "color": [mark.color for mark in marks],
            "text": [mark.text for mark in marks],
        }
        if data != self.marks.data:
            self.marks.data = data
        text, is_bad = summarize_chart(self.spec, self.lines, curves)
        for each in self.figures:
            title = each.select_one({"name": "summary"})
            title.text, title.text_color = PlainText(text=text), LEVEL_COLORS["error"] if is_bad else GREY

    def _marks(self, entry: RunEntry, curves: Curves, *, several: bool) -> Iterator[Mark]:
        names = self.spec.names.get(entry.key, [])
        if names:
            yield from alert_marks(entry.alerts, names, set(entry.metrics), f"{entry.label}: " if several else "")
        for line in self.lines:
            if line.run == entry.key:
                yield from non_finite_marks(curves[line.run, line.name], line.label)


def new_charts(
    specs: Sequence[ChartSpec], view: View, curves: Curves, x_range: DataRange1d, scale: str
) -> list[Chart]:
    """Return the charts whose shown streams have points.

    Args:
        specs: the charts that may be shown.
        view: the runs and streams.
        curves: their curves, by key of the run and full name; only those that have points.
        x_range: the common range of iterations.
        scale: ``auto``, ``log`` or ``linear``; with ``both``, each chart gets a figure of either scale, if it has only
            positive values.
    """
    styles = _styles(view)
    charts = []
    for spec in specs:
        lines = [
            new_line(
                run=entry.key,
                name=name,
                label=stream_of(name) if len(view.runs) == 1 else f"{entry.label} {stream_of(name)}",
                style=styles[entry.key][stream_of(name)],
                smoothed=view.smoothing > 1,
            )
            for entry in view.runs
            for name in spec.names.get(entry.key, [])
            if (entry.key, name) in curves and stream_of(name) in view.shown
        ]
        if lines:
            chart = Chart(spec=spec, lines=lines)
            for log in _scales(scale, spec, lines, curves):
                chart.figures.append(draw(spec, lines, chart.marks, x_range, log=log))
            chart.update(view, curves)
            charts.append(chart)
    return charts


def _styles(view: View) -> Mapping[str, Mapping[str, object]]:
    if len(view.runs) == 1:
        return {view.runs[0].key: stream_styles(view.streams)}
    return {entry.key: run_styles(number, view.streams) for number, entry in enumerate(view.runs)}


def _scales(scale: str, spec: ChartSpec, lines: Sequence[Line], curves: Curves) -> list[bool]:
    """Return whether the scale of each figure is logarithmic, the default one first."""
    import numpy as np

    shown = [curves[line.run, line.name] for line in lines]
    # The scale of a quantity that is neither better nor worse is linear, such as that of the learning rate.
    plot = Plot(
        heading=spec.heading,
        title=spec.title,
        series=[Series(curve=curve, run=0, stream="", label="") for curve in shown],
    )
    possible = all(bool((curve.values[np.isfinite(curve.values)] > 0).all()) for curve in shown)
    default = possible and spec.better == "lower" and plot.is_log
    if scale == "both":
        return [default, not default] if possible else [False]
    return [possible if scale == "log" else False if scale == "linear" else default]


