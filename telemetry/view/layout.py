"""The layout of the page: controls, table of runs, charts, panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bokeh.models import Column, Div, InlineStyleSheet, LayoutDOM

from telemetry.display.grouping import OVERALL
from telemetry.view.chart import Chart
from telemetry.view.controls import Controls
from telemetry.view.figures import HEIGHT
from telemetry.view.panels import events_panel, parameters_panel
from telemetry.view.run_entry import RunEntry
from telemetry.view.run_table import RunTable
from telemetry.view.texts import escaped

_GRID = (
    ":host { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 4px 14px; }"
)
_PANEL = """
:host { font: 13px/1.45 Helvetica, Arial, 'Liberation Sans', sans-serif; color: #1b2229; }
.bk-clearfix { width: 100%; }
h2 { font-size: 16px; margin: 10px 0 0; border-bottom: 1px solid #d5dade; }
h3 { font-size: 14px; margin: 4px 0 0; }
h4 { font-size: 13px; margin: 6px 0 2px; color: #4a5560; }
p, ul { margin: 0 0 4px; } ul { padding-left: 18px; } small { color: #4a5560; }
.good { color: #00734f; } .warning { color: #b26a00; } .error { color: #c00000; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
th, td { padding: 2px 14px 2px 0; border-bottom: 1px solid #e8ebee; vertical-align: top; overflow-wrap: anywhere; }
tr.different td { background: #fff3d6; }
summary { font-weight: 600; cursor: pointer; margin: 8px 0 2px; }
"""


def panel(text: str, **styles: str) -> Div:
    """Return an element with HTML, in which all texts from runs are escaped."""
    return Div(
        text=text,
        disable_math=True,
        sizing_mode="stretch_width",
        stylesheets=[InlineStyleSheet(css=_PANEL)],
        styles=styles,
    )


class Layout:
    """The elements of the page.

    Attributes:
        root: contains all of them.
        controls: the controls.

    Args:
        on_select: called with the keys of the runs that the user has selected.
        on_change: called after a change of the controls.
    """

    def __init__(self, on_select: Callable[[list[str]], None], on_change: Callable[[], None]) -> None:
        self.controls = Controls(on_change)
        self._table = RunTable(on_select)
        self._events = events_cell()
        self._parameters = panel("")
        self._grid = chart_grid([panel("Reading …")])
        self.root = page_column(self.controls.row, self._table.widget, self._grid, self._parameters)

    def show_charts(self, charts: Sequence[Chart], note: str) -> None:
        """Replace the charts; ``note`` is a text about missing ones."""
        text = [panel(f"<p>{note}</p>")] if note else []
        self._grid.children = grid_cells(charts, self._events) + text if charts else [*text, self._events]

    def show_runs(self, entries: Sequence[RunEntry], shown: Sequence[RunEntry], selected: Sequence[str]) -> None:
        """Show the table of all runs, and the alerts, delivery and parameters of the selected ones."""
        self._table.show(entries, selected)
        self._events.text = events_panel(shown)
        self._parameters.text = parameters_panel(shown)


def page_column(*children: LayoutDOM) -> Column:
    """Return the root of a page."""
    return Column(*children, sizing_mode="stretch_width", spacing=6, styles={"padding": "8px 12px"})


def events_cell() -> Div:
    """Return an element for alerts and delivery, of the size of a chart."""
    return panel("", max_height=f"{HEIGHT}px", overflow="auto")


def chart_grid(cells: Sequence[LayoutDOM]) -> Column:
    """Return as many columns of charts as fit the width of the page."""
    return Column(*cells, sizing_mode="stretch_width", stylesheets=[InlineStyleSheet(css=_GRID)])


def grid_cells(charts: Sequence[Chart], events: Div) -> list[LayoutDOM]:
    """Return the charts below their headings; the events follow the first charts."""
    cells: list[LayoutDOM] = []
    for heading in dict.fromkeys(chart.spec.heading for chart in charts):
        cells += [heading_cell(heading)] if heading != OVERALL else []
        cells += [chart.figure for chart in charts if chart.spec.heading == heading]
        cells += [] if events in cells else [events]
    return cells


def heading_cell(heading: str) -> Div:
    """Return a heading above a row of charts."""
    return panel(f"<h2>{escaped(heading)}</h2>", grid_column="1 / -1")
