"""Colors and line styles: streams of one run by color, or several runs by color.

The colors are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which color-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.metrics import SYSTEM, VALIDATION

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, BLACK, PALE = "#e69f00", "#56b4e9", "#000000", "#a9bccd"
_RUN_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_STREAM_COLORS = (BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES = ("solid", "dashed", "dotted", "dotdash")
LEVEL_COLORS = {"info": "#5a6b7b", "warning": "#b26a00", "error": "#c00000"}
"""Colors of alerts by level; readable as text on white."""


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """Color, width in pixels, opacity and dash pattern of a line."""

    color: str
    width: float = 1.6
    alpha: float = 1.0
    dash: str = "solid"


def stream_styles(streams: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each stream of a single run, and of that of the system.

    The first of several streams is pale and thin, because values of single batches are the noisiest; validation is
    strong.
    """
    styles: dict[str, LineStyle] = {}
    for stream in streams:
        if stream == VALIDATION:
            styles[stream] = LineStyle(color=VERMILION, width=2.6)
        elif stream == streams[0] and len(streams) > 1:
            styles[stream] = LineStyle(color=PALE, width=1)
        else:
            styles[stream] = LineStyle(color=_STREAM_COLORS[len(styles) % len(_STREAM_COLORS) - 1])
    return styles | {SYSTEM: LineStyle(color=BLUE)}


def run_color(number: int) -> str:
    """Return the color of a run among several."""
    return _RUN_COLORS[number % len(_RUN_COLORS)]


def run_styles(number: int, streams: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each stream of a run among several, and of the system: the color is that of the run."""
    dash = _DASHES[number // len(_RUN_COLORS) % len(_DASHES)]
    styles = {SYSTEM: LineStyle(color=run_color(number), dash=dash)}
    for stream in streams:
        if stream == VALIDATION or len(streams) == 1:
            styles[stream] = LineStyle(color=run_color(number), width=2.2, dash=dash)
        elif stream == streams[0]:
            styles[stream] = LineStyle(color=run_color(number), width=1, alpha=0.35, dash=dash)
        else:
            styles[stream] = LineStyle(color=run_color(number), width=1.2, alpha=0.7, dash=dash)
    return styles


def default_streams(streams: Sequence[str], *, several: bool) -> list[str]:
    """Return the streams that are shown at first: all of a single run, only validation of several."""
    return [VALIDATION] if several and VALIDATION in streams else list(streams)
