"""Colors and marks of curves in the terminal, the same in all charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from telemetry.display.plot_layout import VALIDATION, Plot, Series


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
STYLES = (
    Style("blue+", "94", "o"),
    Style("green+", "92", "+"),
    Style("magenta+", "95", "x"),
    Style("cyan+", "96", "*"),
    Style("red+", "91", "@"),
    Style("orange+", "93", "%"),
    Style("white", "37", "&"),
)
"""For all other curves, in order."""


def styles(plots: Iterable[Plot]) -> dict[str, Style]:
    """Return the style of each curve by its label, in order of appearance."""
    found = {each.label: each for plot in plots for each in plot.series}
    several_runs = len({each.run for each in found.values()}) > 1
    out: dict[str, Style] = {}
    number = 0
    for label, series in found.items():
        special = None if several_runs else _style_of_stream(series, first=not out, alone=len(found) == 1)
        out[label] = special or STYLES[number % len(STYLES)]
        number += special is None
    return out


def _style_of_stream(series: Series, *, first: bool, alone: bool) -> Style | None:
    if series.stream == VALIDATION:
        return STRONG
    return PALE if first and not alone else None
