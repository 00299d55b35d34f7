"""The table of runs, in which runs are selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from bokeh.models import ColumnDataSource, CustomJS, DataTable, HTMLTemplateFormatter, InlineStyleSheet, TableColumn

from telemetry.metrics import Metric
from telemetry.records import local_time
from telemetry.units import with_unit
from telemetry.view.run_entry import RunEntry
from telemetry.view.style import run_color
from telemetry.view.texts import escaped, plain

ROW_HEIGHT, HEADER_HEIGHT, MAX_ROWS = 26, 69, 5
"""Height of a row and of the header, which has three lines, in pixels, and number of rows visible without scrolling."""
MAX_BEST = 5
"""Number of metrics whose best values are shown."""
_STATUS_COLORS = {"running": "#00734f", "finished": "#1b2229", "failed": "#c00000", "killed": "#c00000"}
_SWATCH = "<div style='width:16px;height:16px;margin-top:4px;border-radius:3px;background:<%- value %>'></div>"
_TEXT = "<span title='<%- value %>'><%- value %></span>"
_COLORED = "<span title='<%- value %>' style='color:<%- {0} %>'><%- value %></span>"
_COUNT = "<%= Number(value).toLocaleString('en-US') %>"
_BEST = "<%= Number.isFinite(value) ? Number(value).toPrecision(4) : '-' %>"
_STYLE = """
.slick-header-column.slick-header-column {
  font-weight: 600; background: #f3f5f7; height: 55px; white-space: normal; line-height: 17px;
}
.slick-cell, .slick-header-column { font-family: Helvetica, Arial, 'Liberation Sans', sans-serif; font-size: 13px; }
.slick-cell.selected { background-color: #e4eef7; }
"""

_Quantity = tuple[str, str]
"""Full name and unit of a metric."""


class RunTable:
    """A table of runs, newest first, with a check box for each.

    Args:
        on_select: called with the keys of the selected runs when the user has changed the selection.
    """

    def __init__(self, on_select: Callable[[list[str]], None] | None = None) -> None:
        self._keys: list[str] = []
        self._best: dict[_Quantity, Metric] | None = None
        self._on_select = on_select
        self.source = ColumnDataSource()
        self.widget = DataTable(
            source=self.source,
            selectable="checkbox",
            index_position=None,
            row_height=ROW_HEIGHT,
            sizing_mode="stretch_width",
            autosize_mode="force_fit",
            reorderable=False,
            stylesheets=[InlineStyleSheet(css=_STYLE)],
        )
        # The table itself notices only a change of its columns.
        redraw = CustomJS(args={"table": self.widget}, code="Bokeh.index.find_one(table)?.updateGrid()")
        self.source.js_on_change("data", redraw)
        if on_select is not None:
            self.source.selected.on_change("indices", self._selected)

    def show(self, entries: Sequence[RunEntry], selected: Sequence[str]) -> None:
        """Show the runs, and which of them are selected."""
        self._keys = [entry.key for entry in entries]
        best = _best_columns(entries)
        colors = {key: run_color(number) if len(selected) > 1 else "#8a97a3" for number, key in enumerate(selected)}
        data: dict[str, list[object]] = {
            "color": [colors.get(entry.key, "transparent") for entry in entries],
            "run": [plain(entry.label) for entry in entries],
            "status": [_status(entry) for entry in entries],
            "status_color": [_STATUS_COLORS.get(entry.status, "#b26a00") for entry in entries],
            "step": [entry.step for entry in entries],
            "time": [local_time(entry.time, "%Y-%m-%d %H:%M") if entry.time else "" for entry in entries],
            **{f"best{i}": [_value(entry, quantity) for entry in entries] for i, quantity in enumerate(best)},
            "alerts": [_alerts_text(entry) for entry in entries],
            "alert_color": [_alert_color(entry) for entry in entries],
            "sinks": [_sinks_text(entry) for entry in entries],
            "sink_color": ["#b26a00" if _behind(entry) else "#1b2229" for entry in entries],
        }
        if best != self._best:
            self._best = best
            self.widget.columns = _columns(best)
        if self.source.data != data:
            self.source.data = data
        self.widget.height = ROW_HEIGHT * min(len(entries), MAX_ROWS) + HEADER_HEIGHT
        indices = [self._keys.index(key) for key in selected if key in self._keys]
        if sorted(indices) != sorted(self.source.selected.indices):
            on_select, self._on_select = self._on_select, None
            self.source.selected.indices = indices
            self._on_select = on_select

    def _selected(self, _attribute: str, _old: list[int], new: list[int]) -> None:
        if self._on_select is not None:
            self._on_select([self._keys[index] for index in sorted(new) if index < len(self._keys)])


def _columns(best: Mapping[_Quantity, Metric]) -> list[TableColumn]:
    def column(field: str, title: str, width: int, template: str = _TEXT) -> TableColumn:
        # The title is HTML.
        formatter = HTMLTemplateFormatter(template=template)
        return TableColumn(field=field, title=escaped(title), width=width, formatter=formatter)

    return [
        column("color", "", 24, _SWATCH),
        column("run", "run", 210),
        column("status", "status", 115, _COLORED.format("status_color")),
        column("step", "iteration", 75, _COUNT),
        column("time", "last record", 120),
        *(
            column(f"best{i}", f"best {with_unit(metric.label or name, metric.unit)}", 150, _BEST)
            for i, ((name, _), metric) in enumerate(best.items())
        ),
        column("alerts", "alerts", 130, _COLORED.format("alert_color")),
        column("sinks", "sinks", 150, _COLORED.format("sink_color")),
    ]


def _best_columns(entries: Sequence[RunEntry]) -> dict[_Quantity, Metric]:
    """Return the metrics with best values; values in different units must not share a column."""
    found = {(name, entry.metrics[name].unit): entry.metrics[name] for entry in entries for name in entry.best}
    return dict(islice(found.items(), MAX_BEST))


def _status(entry: RunEntry) -> str:
    if entry.error:
        return "unreadable"
    # The trainer cannot be checked from here.
    return "running or killed" if entry.status == "unseen" else entry.status


def _value(entry: RunEntry, quantity: _Quantity) -> float:
    name, unit = quantity
    return entry.best[name].value if name in entry.best and entry.metrics[name].unit == unit else float("nan")


def _alerts_text(entry: RunEntry) -> str:
    counts = {level: sum(a.level == level and not a.recovered for a in entry.alerts) for level in ("error", "warning")}
    listed = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return ", ".join(listed) or "none"


def _alert_color(entry: RunEntry) -> str:
    levels = {alert.level for alert in entry.alerts if not alert.recovered}
    return "#c00000" if "error" in levels else "#b26a00" if "warning" in levels else "#1b2229"


def _behind(entry: RunEntry) -> list[str]:
    return [sink.name for sink in entry.sinks if sink.is_behind or sink.error]


def _sinks_text(entry: RunEntry) -> str:
    if not entry.sinks:
        return "none"
    behind = _behind(entry)
    return f"{', '.join(behind)} behind" if behind else "all delivered"
