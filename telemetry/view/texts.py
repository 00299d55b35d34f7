"""Format numbers and escape texts for the page."""

from __future__ import annotations

import html
import math

from telemetry.printable import printable, shorten

MAX_TEXT_LENGTH = 500
"""Maximum number of characters of a text from a run."""
# Bokeh replaces @field, $variable and {format} in tooltips.
_TEMPLATE_CHARACTERS = str.maketrans({"@": "&#64;", "$": "&#36;", "{": "&#123;", "}": "&#125;"})


def plain(text: str) -> str:
    """Return a text from a run as one line of limited length, for places that display no markup."""
    return shorten(printable(text), MAX_TEXT_LENGTH)


def escaped(text: str) -> str:
    """Return a text from a run as HTML."""
    return html.escape(plain(text))


def in_tooltip(text: str) -> str:
    """Return a text from a run as HTML for a tooltip template of Bokeh."""
    return escaped(text).translate(_TEMPLATE_CHARACTERS)


def number_text(value: float) -> str:
    """Return a value with four significant digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    return f"{value:#.4g}".rstrip(".") if 1e-3 <= abs(value) < 1e5 else f"{value:.3e}" if value else "0"


def step_text(step: int) -> str:
    """Return an iteration with thousands separators."""
    return f"{step:,}"
