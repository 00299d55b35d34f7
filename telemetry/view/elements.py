"""Elements of the page: texts in HTML, and columns."""

from __future__ import annotations

from bokeh.models import Column, Div, InlineStyleSheet, LayoutDOM

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


def page_column(*children: LayoutDOM) -> Column:
    """Return the root of a page."""
    return Column(*children, sizing_mode="stretch_width", spacing=6, styles={"padding": "8px 12px"})
