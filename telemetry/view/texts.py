"""Format numbers and escape texts for the page."""

from __future__ import annotations

import html
import math

from telemetry.printable import printable, shorten

MAX_TEXT_LENGTH = 500
"""Maximum number of characters of a text from a run."""


_SMALLEST, _LARGEST = 1e-3, 1e4
"""Range of the values that are written without an exponent."""


def plain(text: str) -> str:
    """Return a text from a run as one line of limited length, for places that display no markup."""
    return shorten(printable(text), MAX_TEXT_LENGTH)


def escaped(text: str) -> str:
    """Return a text from a run as HTML."""
    return html.escape(plain(text))


def number_text(value: float) -> str:
    """Return a value with four significant digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0 or _SMALLEST <= abs(value) < _LARGEST:
        return f"{value:#.4g}".rstrip(".")
    return f"{value:.3e}"


def step_text(step: int) -> str:
    """Return an iteration with thousands separators."""
    return f"{step:,}"


def size_text(size: int) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
