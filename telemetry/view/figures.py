"""Draw a chart with Bokeh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
    NumeralTickFormatter,
    PlainText,
    Title,
)
from bokeh.plotting import figure

from telemetry.units import NO_UNIT
from telemetry.view.chart_list import ChartSpec
from telemetry.view.lines import Line

from telemetry.view.texts import in_tooltip, plain

HEIGHT = 330
"""Height of a chart in pixels: two rows of charts fit below the table on a screen with 1,000 pixels."""
MAX_LINES_AT_ONCE = 8
"""Charts with more lines show only the value under the pointer, not those of all lines at this iteration."""
RAW_ALPHA = 0.3
"""Opacity of the original line if there is a smoothed one."""
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
GREY = "#4a5560"
_NUMBER = "const v = Number(NUMBER); return v !== 0 && (Math.abs(v) >= 1e6 || Math.abs(v) < 1e-4) ? v.toExponential() : "
_VALUE = _NUMBER.replace("NUMBER", "Number(value).toPrecision(6)") + "String(v)"
_TICK = _NUMBER.replace("NUMBER", "tick.toPrecision(6)") + "v.toLocaleString('en-US', {maximumSignificantDigits: 6})"


def draw(
    spec: ChartSpec, lines: Sequence[Line], marks: ColumnDataSource, x_range: DataRange1d, *, log: bool
) -> figure:
    """Return a chart of the lines.

    Args:
        spec: the quantity.
        lines: the lines, which are drawn in this order.
        marks: vertical marks, with the columns x, color and text.
        x_range: the range of iterations, which is common to all charts.
        log: whether the scale of the values is logarithmic.
    """
    chart = figure(
        height=HEIGHT,
        min_width=320,
        sizing_mode="stretch_width",
        x_range=x_range,
        y_range=DataRange1d(only_visible=True),
        y_axis_type="log" if log else "linear",
        tools="box_zoom,xwheel_zoom,pan,reset,save",
        active_drag="box_zoom",
        active_scroll=None,
        toolbar_location="above",
        name=plain(spec.title),
        tags=["log" if log else "linear"],
    )
    chart.toolbar.logo = None
    chart.toolbar.autohide = True
    _label(chart, spec)
    renderers = [_draw_line(chart, line) for line in lines]
    chart.add_tools(_line_hover(spec, renderers, at_once=len(lines) <= MAX_LINES_AT_ONCE))
    _draw_marks(chart, marks)
    return chart


def _label(chart: figure, spec: ChartSpec) -> None:
    text: dict[str, Any] = {"text_font": FONT, "standoff": 2}
    # Plain text: Bokeh would load a library for formulas, which `$$` marks in other texts.
    chart.add_layout(Title(text=PlainText(text=""), text_font_size="12px", text_font_style="normal", text_color=GREY, name="summary", **text), "above")
    chart.title = Title(text=PlainText(text=plain(spec.title)), text_font_size="15px", text_color="#1b2229", **text)
    chart.xaxis.axis_label = "iteration"
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    chart.xaxis.ticker.desired_num_ticks = 5
    chart.xaxis.ticker.min_interval = 1
    chart.yaxis.formatter = CustomJSTickFormatter(code=_TICK)
    if spec.unit not in NO_UNIT:
        chart.yaxis.axis_label = PlainText(text=plain(spec.unit))
    chart.axis.axis_label_text_font_style = "normal"
    chart.axis.axis_label_text_font_size = chart.axis.major_label_text_font_size = "12px"
    chart.axis.axis_label_text_font = chart.axis.major_label_text_font = FONT
    chart.axis.axis_label_text_color = chart.axis.major_label_text_color = GREY
    chart.axis.axis_label_standoff = 4
    chart.axis.minor_tick_line_color = chart.axis.axis_line_color = "#b8c0c8"
    chart.grid.grid_line_color = "#e8ebee"
    chart.outline_line_color = None


def _draw_line(chart: figure, line: Line) -> Any:
    style = line.style
    alpha = style.alpha * RAW_ALPHA if line.smooth else style.alpha
    look = {"line_color": style.color, "line_width": style.width, "line_alpha": alpha, "line_dash": style.dash}
    tags = [line.name.partition("/")[0]]
    dots = chart.scatter("x", "y", size="size", color=style.color, alpha=alpha, source=line.source, tags=tags)
    drawn = chart.line("x", "y", source=line.source, name=line.label, tags=tags, **look)
    for renderer in (dots, drawn):
        renderer.nonselection_glyph = renderer.muted_glyph = None
    if line.smooth:
        chart.line("x", "y", source=line.smooth, tags=tags, **look | {"line_alpha": 1.0, "line_width": style.width + 0.6})
    return drawn


def _line_hover(spec: ChartSpec, renderers: list[Any], *, at_once: bool) -> HoverTool:
    unit = "" if spec.unit in NO_UNIT else f" {in_tooltip(spec.unit)}"
    return HoverTool(
        renderers=renderers,
        mode="vline" if at_once else "mouse",
        line_policy="nearest",
        point_policy="snap_to_data",
        tooltips=f"<span class='value'><b>$name</b> @y{{custom}}{unit} at iteration @x{{0,0}}</span>",
        formatters={"@y": CustomJSHover(code=_VALUE)},
        visible=False,
    )


def _draw_marks(chart: figure, marks: ColumnDataSource) -> None:
    spans = chart.vspan("x", source=marks, line_color="color", line_width=1.5, line_dash="dashed")
    chart.add_tools(HoverTool(renderers=[spans], tooltips="<span class='mark' style='color:@color'>@text</span>", visible=False))


