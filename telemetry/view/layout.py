"""The layout of the page: controls, table of runs, charts, contents, panels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from bokeh.models import Column, Div, InlineStyleSheet, LayoutDOM

from telemetry.display.grouping import OVERALL
from telemetry.view.chart import Chart
from telemetry.view.controls import Controls
from telemetry.view.elements import page_column, panel
from telemetry.view.figures import HEIGHT
from telemetry.view.media_section import MediaSection
from telemetry.view.panels import events_panel, parameters_panel
from telemetry.view.run_entry import RunEntry
from telemetry.view.run_table import RunTable
from telemetry.view.texts import escaped

_GRID = (
    ":host { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 4px 14px; }"
)


class Layout:
    """The elements of the page.

    Attributes:
        root: contains all of them.
        controls: the controls.
        media: the contents that are not numbers.

    Args:
        on_select: called with the keys of the runs that the user has selected.
        on_change: called after a change of the controls.
        on_step: called after the choice of another iteration in ``media``.
    """

    def __init__(
        self,
        on_select: Callable[[list[str]], None],
        on_change: Callable[[], None],
        on_step: Callable[[], Awaitable[None]],
    ) -> None:
        self.controls = Controls(on_change)
        self.media = MediaSection(on_step)
        self._table = RunTable(on_select)
        self._events = events_cell()
        self._parameters = panel("")
        self._grid = chart_grid([panel("Reading …")])
        self.root = page_column(self.controls.row, self._table.widget, self._grid, self.media.root, self._parameters)

    def show_charts(self, charts: Sequence[Chart], note: str) -> None:
        """Replace the charts; ``note`` is a text about missing ones."""
        text = [panel(f"<p>{note}</p>")] if note else []
        self._grid.children = grid_cells(charts, self._events) + text if charts else [*text, self._events]

    def show_runs(self, entries: Sequence[RunEntry], shown: Sequence[RunEntry], selected: Sequence[str]) -> None:
        """Show the table of all runs, and the alerts, delivery and parameters of the selected ones."""
        self._table.show(entries, selected)
        self._events.text = events_panel(shown)
        self._parameters.text = parameters_panel(shown)


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
