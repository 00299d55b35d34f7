"""Draw a chart with Bokeh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bokeh.models import (
    CDSView,
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    CustomJSTicker,
    CustomJSTickFormatter,
    DataRange1d,
    GlyphRenderer,
    LogScale,
    NumeralTickFormatter,
    PlainText,
    Scatter,
    Title,
)
from bokeh.models import Line as LineGlyph
from bokeh.plotting import figure

from telemetry.metrics import SYSTEM, stream_of
from telemetry.units import NO_UNIT
from telemetry.view.chart_list import ChartSpec
from telemetry.view.lines import Line
from telemetry.view.texts import plain

HEIGHT = 335
"""Height of a chart in pixels: two rows of charts fit below the table on a screen with 1,000 pixels."""
RAW_ALPHA = 0.3
"""Opacity of the original line if there is a smoothed one."""
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
GREY, LIGHT = "#4a5560", "#b8c0c8"
"""Colors of texts and of axes."""
DOT_SIZE = 5
"""Diameter of dots in pixels."""
# Bokeh's own ticks are evenly spaced if the axis spans less than two decades, and leave its lower part without any.
_LOG_TICKS = """
const [start, end] = [cb_data.start, cb_data.end];
if (!(start > 0 && end > start && isFinite(end))) return [];
const [low, high] = [Math.floor(Math.log10(start)), Math.ceil(Math.log10(end))];
const every = Math.max(1, Math.ceil((high - low) / 8));
const digits = high - low > 4 ? [1] : high - low > 2 ? [1, 3] : DIGITS;
const ticks = [];
for (let k = low; k <= high; k += every)
    for (const d of digits) if (start <= d * 10 ** k && d * 10 ** k <= end) ticks.push(Number(`${d}e${k}`));
return ticks;
"""
_MAJOR = _LOG_TICKS.replace("DIGITS", "end / start > 5 ? [1, 2, 5] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]")
_MINOR = _LOG_TICKS.replace("DIGITS", "[1, 2, 3, 4, 5, 6, 7, 8, 9]")
_TICK = """
const v = Number(tick.toPrecision(6));
const [size, most] = [Math.abs(v), {maximumSignificantDigits: 6}];
return size && (size >= 1e6 || size < 1e-4) ? v.toExponential() : v.toLocaleString("en-US", most);
"""


@cache
def script(name: str) -> str:
    """Return the JavaScript code in a file of this package."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The parts that all charts of a page have in common.

    Attributes:
        x_range: the range of iterations.
        hover: shows the values at the pointer.
        log_ticks: ticks of logarithmic axes.
        format_value, format_step: labels of the axes.
    """

    x_range: DataRange1d = field(default_factory=lambda: DataRange1d(only_visible=True, range_padding=0.01))
    hover: CustomJS = field(default_factory=lambda: CustomJS(code=script("hover.js")))
    log_ticks: CustomJSTicker = field(default_factory=lambda: CustomJSTicker(major_code=_MAJOR, minor_code=_MINOR))
    format_value: CustomJSTickFormatter = field(default_factory=lambda: CustomJSTickFormatter(code=_TICK))
    format_step: NumeralTickFormatter = field(default_factory=lambda: NumeralTickFormatter(format="0,0"))


def draw(spec: ChartSpec, lines: Sequence[Line], marks: ColumnDataSource, shared: Shared, *, log: bool) -> figure:
    """Return a chart of the lines.

    Args:
        spec: the quantity.
        lines: the lines, which are drawn in this order.
        marks: vertical marks, with the columns x, color and text.
        shared: the parts common to all charts.
        log: whether the scale of the values is logarithmic.
    """
    chart = figure(
        height=HEIGHT,
        min_width=320,
        sizing_mode="stretch_width",
        x_range=shared.x_range,
        y_range=DataRange1d(only_visible=True),
        tools="box_zoom,xwheel_zoom,pan,reset,save",
        active_drag="box_zoom",
        active_scroll=None,
        toolbar_location="above",
        outline_line_color=None,
        name=plain(spec.title),
        # For hover.js.
        tags=["" if spec.unit in NO_UNIT else plain(spec.unit)],
    )
    chart.toolbar.logo = None
    chart.toolbar.autohide = True
    chart.add_tools(CrosshairTool(dimensions="height", line_color=LIGHT, visible=False))
    _label(chart, spec)
    _shape_axes(chart, shared)
    if log:
        chart.y_scale, chart.yaxis.ticker = LogScale(), shared.log_ticks
    for line in lines:
        _draw_line(chart, line)
    chart.vspan("x", source=marks, name="marks", line_color="color", line_width=1.5, line_dash="dashed")
    chart.js_on_event("mousemove", shared.hover)
    chart.js_on_event("mouseleave", shared.hover)
    return chart


def _label(chart: figure, spec: ChartSpec) -> None:
    # Plain text: Bokeh would load a library for formulas, which `$$` marks in other texts.
    summary = Title(text=PlainText(text=""), text_font_size="13px", text_font_style="normal", name="summary")
    chart.title = Title(text=PlainText(text=plain(spec.title)), text_font_size="15px", text_color="#1b2229")
    for title in (summary, chart.title):
        title.text_font, title.standoff = FONT, 2
    chart.add_layout(summary, "above")
    chart.xaxis.axis_label = "iteration"
    if spec.unit not in NO_UNIT:
        chart.yaxis.axis_label = PlainText(text=plain(spec.unit))


def _shape_axes(chart: figure, shared: Shared) -> None:
    chart.xaxis.formatter, chart.yaxis.formatter = shared.format_step, shared.format_value
    chart.xaxis.ticker.desired_num_ticks = 5
    chart.xaxis.ticker.min_interval = 1
    for axis in chart.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_color = axis.major_label_text_color = GREY
        axis.minor_tick_line_color = axis.major_tick_line_color = axis.axis_line_color = LIGHT
        axis.axis_label_standoff, axis.major_tick_in = 4, 0
    chart.grid.grid_line_color = "#e8ebee"


def _draw_line(chart: figure, line: Line) -> None:
    style = line.style
    alpha = style.alpha * RAW_ALPHA if line.smooth else style.alpha
    look = {"line_color": style.color, "line_width": style.width, "line_dash": style.dash}
    dots = Scatter(size=DOT_SIZE, fill_color=style.color, line_color=style.color, fill_alpha=alpha, line_alpha=alpha)
    _add(chart, line, line.dots, dots)
    _add(chart, line, line.source, LineGlyph(line_alpha=alpha, **look), name=line.label)
    if line.smooth:
        _add(chart, line, line.smooth, LineGlyph(**look | {"line_width": style.width + 0.6}))


def _add(
    chart: figure, line: Line, source: ColumnDataSource, glyph: LineGlyph | Scatter, name: str | None = None
) -> None:
    # figure.line would add three more glyphs for selections, which takes most of the time with many runs.
    renderer = GlyphRenderer(
        data_source=source, glyph=glyph, nonselection_glyph=None, muted_glyph=None, view=CDSView(), name=name
    )
    # For report.js, which shows the chosen streams, and everything without a tag.
    renderer.tags = [stream for stream in [stream_of(line.name)] if stream != SYSTEM]
    chart.renderers.append(renderer)
