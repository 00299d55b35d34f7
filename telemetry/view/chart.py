"""A chart of the page with its lines and marks, which are replaced while runs grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bokeh.models import ColumnDataSource, PlainText
from bokeh.plotting import figure

from telemetry.display.plot_layout import Plot, Series
from telemetry.metrics import SYSTEM, stream_of
from telemetry.reading.curve import Curve
from telemetry.view.chart_list import ChartSpec
from telemetry.view.figures import GREY, Shared, draw
from telemetry.view.lines import Line, Mark, Window, alert_marks, new_line, non_finite_marks
from telemetry.view.run_entry import RunEntry
from telemetry.view.style import LEVEL_COLORS, LineStyle, run_styles, stream_styles
from telemetry.view.summary import Curves, summarize_chart

MAX_POINTS_OF_SEVERAL = 100_000
"""Number of points drawn in a chart of many lines; each line has at least MIN_STRETCHES stretches with two points."""
Scale = Literal["auto", "log", "linear"]
MAX_STRETCHES, MIN_STRETCHES = 500, 100


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of the curves, and how.

    Attributes:
        runs: the selected runs.
        streams: all streams of these runs except that of the system, in order of declaration.
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

    def shows(self, stream: str) -> bool:
        """Return whether a stream is shown; that of the system, which has its own charts, always is."""
        return stream == SYSTEM or stream in self.shown


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with at least one line.

    Attributes:
        spec: the quantity.
        lines: its lines.
        log_by_default: whether its scale is logarithmic unless the user chooses another one.
        can_be_log: whether a logarithmic scale is possible: all values are positive.
        figure: what the browser draws.
        marks: vertical marks.
    """

    spec: ChartSpec
    lines: Sequence[Line]
    log_by_default: bool
    can_be_log: bool
    figure: figure
    marks: ColumnDataSource

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
        (title,) = (each for each in self.figure.above if each.name == "summary")
        if title.text.text != text:
            title.text, title.text_color = PlainText(text=text), LEVEL_COLORS["error"] if is_bad else GREY

    def _marks(self, entry: RunEntry, curves: Curves, *, several: bool) -> Iterator[Mark]:
        names = self.spec.names.get(entry.key, [])
        if names:
            yield from alert_marks(entry.alerts, names, set(entry.metrics), f"{entry.label}: " if several else "")
        for line in self.lines:
            if line.run == entry.key:
                yield from non_finite_marks(curves[line.run, line.name], line.label)


def new_charts(
    specs: Sequence[ChartSpec], view: View, curves: Curves, shared: Shared, scale: Scale = "auto"
) -> list[Chart]:
    """Return the charts whose shown streams have points.

    Args:
        specs: the charts that may be shown.
        view: the runs and streams.
        curves: their curves, by key of the run and full name; only those that have points.
        shared: the parts common to all charts.
        scale: scale of the values; charts with values that are not positive remain linear.
    """
    styles = _styles(view)
    charts = []
    for spec in specs:
        lines = [
            new_line(
                run=entry.key,
                name=name,
                label=_label(entry, stream_of(name), view),
                style=styles[entry.key][stream_of(name)],
                smoothed=view.smoothing > 1,
            )
            for entry in view.runs
            for name in spec.names.get(entry.key, [])
            if (entry.key, name) in curves and view.shows(stream_of(name))
        ]
        if lines:
            charts.append(_new_chart(spec, lines, curves, shared, scale))
            charts[-1].update(view, curves)
    return charts


def _label(entry: RunEntry, stream: str, view: View) -> str:
    if len(view.runs) == 1:
        return stream
    return entry.label if stream == SYSTEM or len(view.shown) == 1 else f"{entry.label} {stream}"


def _styles(view: View) -> Mapping[str, Mapping[str, LineStyle]]:
    if len(view.runs) == 1:
        return {view.runs[0].key: stream_styles(view.streams)}
    return {entry.key: run_styles(number, view.streams) for number, entry in enumerate(view.runs)}


def _new_chart(spec: ChartSpec, lines: Sequence[Line], curves: Curves, shared: Shared, scale: Scale) -> Chart:
    default, possible = _log_scale(spec, [curves[line.run, line.name] for line in lines])
    marks = ColumnDataSource(data={"x": [], "color": [], "text": []})
    log = possible and (scale == "log" or (scale == "auto" and default))
    drawn = draw(spec, lines, marks, shared, log=log)
    return Chart(spec=spec, lines=lines, log_by_default=default, can_be_log=possible, figure=drawn, marks=marks)


def _log_scale(spec: ChartSpec, curves: Sequence[Curve]) -> tuple[bool, bool]:
    """Return whether a logarithmic scale is better, and whether it is possible.

    It is not better for a quantity that has no direction, such as the learning rate.
    """
    import numpy as np

    series = [Series(curve=curve, run=0, stream="", label="") for curve in curves]
    possible = all(bool((curve.values[np.isfinite(curve.values)] > 0).all()) for curve in curves)
    is_better = Plot(heading=spec.heading, title=spec.title, series=series).is_log
    return possible and spec.better == "lower" and is_better, possible
