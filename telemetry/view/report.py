"""Write the curves of runs into one HTML file, which needs neither a server nor the internet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bokeh.embed import file_html
from bokeh.models import BasicTicker, CheckboxButtonGroup, Column, CustomJS, Div, LinearScale, LogScale
from bokeh.resources import INLINE

from telemetry.display.grouping import OVERALL
from telemetry.errors import RunFolderError
from telemetry.run_folder.regular_file import open_output
from telemetry.view.chart import Chart, View, new_charts
from telemetry.view.chart_list import chart_specs, headings, streams
from telemetry.view.controls import color_bars, control_row, scale_buttons
from telemetry.view.elements import page_column, panel
from telemetry.view.figures import Shared, script
from telemetry.view.html import page_template
from telemetry.view.layout import chart_grid, events_cell, grid_cells, heading_cell
from telemetry.view.media_section import MediaSection
from telemetry.view.panels import events_panel, parameters_panel
from telemetry.view.run_entry import RunEntry
from telemetry.view.run_table import RunTable
from telemetry.view.store import RunStore
from telemetry.view.style import default_streams
from telemetry.view.summary import Curves
from telemetry.view.texts import plain

MAX_POINTS = 45_000
"""Approximate number of points in a report, so that one of a single run has up to 3 MB."""
MIN_STRETCHES, MAX_STRETCHES = 40, 400
MAX_CHARTS = 200
"""Maximum number of charts; each takes up to 0.1 s, and 20 kB."""


def report_html(runs: Sequence[RunEntry], curves: Curves) -> str:
    """Return the page with the curves of the runs, by key of the run and full name of the metric."""
    specs, several = chart_specs(runs), len(runs) > 1
    all_streams = streams(specs)
    shown = specs[:MAX_CHARTS]
    left = f"<p>The first {MAX_CHARTS} of {len(specs):,} charts are shown</p>" if len(specs) > MAX_CHARTS else ""
    count = sum((key, name) in curves for spec in shown for key, names in spec.names.items() for name in names)
    stretches = min(MAX_STRETCHES, max(MIN_STRETCHES, MAX_POINTS // (2 * max(1, count))))
    view = View(runs=runs, streams=all_streams, shown=all_streams, stretches=stretches)
    shared = Shared()
    charts = new_charts(shown, view, curves, shared)
    events = events_cell()
    events.text = events_panel(runs)
    grid = chart_grid([panel("")])
    table = RunTable()
    table.show(runs, [entry.key for entry in runs])
    table.widget.selectable = False
    choice = _Choice(all_streams, headings([chart.spec for chart in charts]), several=several)
    for chart in charts:
        choice.show(chart)
    first = [chart for chart in charts if chart.spec.heading in choice.headings.labels[:1]]
    grid.children = grid_cells(first, events) or [panel("<p>No points</p>"), events]
    choice.call(grid, events, charts, shared)
    media = MediaSection()
    media.show_newest(runs)
    root = page_column(choice.row, table.widget, grid, media.root, panel(left + parameters_panel(runs)))
    title = ", ".join(plain(entry.label) for entry in runs)
    text: str = file_html(root, INLINE, title=title, template=page_template(own_host=False))
    return text


class _Choice:
    """The controls of a report, which work without a server."""

    def __init__(self, names: Sequence[str], headings: Sequence[str], *, several: bool) -> None:
        self._shown = default_streams(names, several=several)
        self.streams = CheckboxButtonGroup(
            labels=list(names),
            active=[number for number, name in enumerate(names) if name in self._shown],
            stylesheets=[] if several else [color_bars(names)],
        )
        self.headings = CheckboxButtonGroup(labels=list(headings), active=[0][: len(headings)])
        self.scale = scale_buttons()
        self.row = control_row(("Streams", self.streams), ("Charts", self.headings), ("Scale", self.scale))

    def show(self, chart: Chart) -> None:
        """Show the streams of the chart that are chosen at first."""
        for renderer in chart.figure.renderers:
            renderer.visible = not renderer.tags or renderer.tags[0] in self._shown

    def call(self, grid: Column, events: Div, charts: Sequence[Chart], shared: Shared) -> None:
        """Let the controls change which charts the grid contains, and how they are drawn."""
        sections = [
            (
                heading_cell(heading) if heading != OVERALL else None,
                [(c.figure, c.log_by_default, c.can_be_log) for c in charts if c.spec.heading == heading],
            )
            for heading in self.headings.labels
        ]
        update = CustomJS(
            args={
                "streams": self.streams,
                "headings": self.headings,
                "scale": self.scale,
                "sections": sections,
                "grid": grid,
                "events": events,
                "log_scale": LogScale(),
                "linear_scale": LinearScale(),
                "log_ticks": shared.log_ticks,
                "linear_ticks": BasicTicker(),
            },
            code=script("report.js"),
        )
        for group in (self.streams, self.headings, self.scale):
            group.js_on_change("active", update)


def write_report(path: Path, folders: Sequence[Path]) -> None:
    """Write a report about the runs in these folders to ``path``.

    Raises:
        RunFolderError: the file cannot be written, or a run cannot be read.
    """
    store = RunStore(folders)
    store.refresh()
    runs = store.runs()
    for entry in runs:
        if entry.error:
            raise RunFolderError(f"{entry.folder}: {entry.error}")
    curves = {
        (entry.key, name): curve
        for entry in runs
        for name, curve in store.curves(entry.key, list(entry.metrics)).items()
        if len(curve)
    }
    text = report_html(runs, curves)
    try:
        with open(path, "w", encoding="utf-8", opener=open_output) as file:
            file.write(text)
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror or error})"
        raise RunFolderError(msg) from error
