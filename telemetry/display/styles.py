"""Colors and marks of curves in the terminal, the same in all charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from telemetry.display.plot_layout import Plot, Series
from telemetry.metrics import VALIDATION


class Style(NamedTuple):
    """How a curve is drawn.

    Attributes:
        color: the color, as plotext names it.
        sgr: the SGR codes of the same color, for text.
        mark: the character that marks its points without colors.
    """

    color: str
    sgr: str
    mark: str


STRONG = Style("orange+", "1;93", "#")
"""For the validation among the streams of a run."""
PALE = Style("gray", "90", ".")
"""For the first of several streams of a run, which is the noisiest."""
COLORS = (
    ("blue+", "94"),
    ("green+", "92"),
    ("magenta+", "95"),
    ("cyan+", "96"),
    ("red+", "91"),
    ("orange+", "93"),
    ("white", "37"),
)
MARKS = "o+x*@%&=^~$?"
"""Colors and marks of all other curves, in order."""


def styles(plots: Iterable[Plot]) -> dict[str, Style]:
    """Return the style of each curve by its label, in order of appearance."""
    found = {each.label: each for plot in plots for each in plot.series}
    several_runs = len({each.run for each in found.values()}) > 1
    out: dict[str, Style] = {}
    number = 0
    for label, series in found.items():
        special = None if several_runs else _style_of_stream(series, first=not out, alone=len(found) == 1)
        out[label] = special or Style(*COLORS[number % len(COLORS)], MARKS[number % len(MARKS)])
        number += special is None
    return out


def _style_of_stream(series: Series, *, first: bool, alone: bool) -> Style | None:
    if series.stream == VALIDATION:
        return STRONG
    return PALE if first and not alone else None
