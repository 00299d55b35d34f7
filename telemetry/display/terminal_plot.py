"""Plots as lines of text.

What a run calls things never comes to plotext, which has a markup of its own: it draws numbers, and the words are put
around them here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from telemetry.display.plot_model import Plot, Series, thinned
from telemetry.display.printable import printable
from telemetry.plugins.optional_imports import optional_import
from telemetry.reading.curve import Curve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLOURS = ("blue+", "orange+", "green+", "magenta+", "cyan+", "red+", "white")
CODES = ("94", "93", "92", "95", "96", "91", "37")
"""The SGR codes of the colours, for the legend."""
SHORTEST = 12
"""Characters of a legend that are left for the name of a curve, at least."""
MARKS = "*o+x#@%&"
"""Marks of the curves where there are no colours."""
ALERT = "!"
_TICKS, _ROWS_A_TICK = 5, 3
_ALMOST = 1 - 1e-9


def draw(plot: Plot, *, width: int, height: int, colours: bool) -> list[str]:
    """Give a plot as lines of at most ``width`` characters: a title, ``height`` lines, and a legend.

    With ``colours``, lines hold the SGR sequences of a terminal; nothing else in them steers it.

    Raises:
        PackageNotInstalled: plotext is not installed.
    """
    scale = _Scale(plot, width, height)
    title = printable(plot.title) + (", logarithmic" if scale.log else "")
    return [
        f"{title:^{width}.{width}}".rstrip(),
        *(_chart(plot, scale, width, height, colours=colours) if scale.points_drawn else []),
        *(_legend(each, number, width, colours=colours) for number, each in enumerate(plot.series)),
        *_not_finite(plot.series, width),
    ]


def beside(blocks: Sequence[Sequence[str]], width: int) -> list[str]:
    """Put blocks of lines beside one another, each so many columns wide."""
    height = max(map(len, blocks))
    rows = [[*block, *[""] * (height - len(block))] for block in blocks]
    return ["  ".join(_pad(line, width) for line in row).rstrip() for row in zip(*rows, strict=True)]


def _pad(line: str, width: int) -> str:
    return line + " " * (width - _shown(line))


def _shown(line: str) -> int:
    """Count the characters that show."""
    return sum(len(part.partition("m")[2] if number else part) for number, part in enumerate(line.split("\x1b[")))


class _Scale:
    """Where iterations and values lie on a plot, each as a number from 0 to 1."""

    def __init__(self, plot: Plot, columns: int, rows: int) -> None:
        import numpy as np

        self._rows = rows
        self.log = plot.is_log
        self.points = [thinned(each.curve, columns) for each in plot.series]
        steps = np.concatenate([steps for steps, _ in self.points]).astype(float)
        values = self._scaled(np.concatenate([values for _, values in self.points]))
        self.points_drawn = len(steps)
        self.steps = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 1.0)
        self.values = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)

    def place(self, number: int) -> tuple[list[float], list[float]]:
        steps, values = self.points[number]
        return _within(steps.astype(float), self.steps).tolist(), _within(self._scaled(values), self.values).tolist()

    def step_ticks(self) -> dict[float, str]:
        return {_share(step, self.steps): f"{step:.0f}" for step in _round(self.steps, _TICKS, least=1.0)}

    def value_ticks(self) -> dict[float, str]:
        count = max(1, min(_TICKS, self._rows // _ROWS_A_TICK))
        if not self.log:
            return {_share(value, self.values): f"{value:.6g}" for value in _round(self.values, count)}
        low, high = self.values
        places = [low + (high - low) * i / count for i in range(count + 1)]
        return {_share(place, self.values): f"{10**place:.3g}" for place in places}

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.log10(values) if self.log else values


def _round(ends: tuple[float, float], count: int, least: float = 0.0) -> list[float]:
    """Give about ``count`` round numbers between two, and these two where there are none."""
    low, high = ends
    span = (high - low) / count
    if span < sys.float_info.min:
        return [low]
    unit = 10.0 ** math.floor(math.log10(span))
    step = max(least, next(unit * n for n in (1, 2, 5, 10) if unit * n >= span / 1.5))
    first = math.ceil(low / step * _ALMOST) if low > 0 else math.ceil(low / step)
    found = [n * step for n in range(first, first + 2 * count + 1) if low <= n * step <= high]
    return found or [low, high]


def _within(numbers: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
    import numpy as np

    low, high = ends
    return (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)


def _share(number: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return (number - low) / (high - low) if high > low else 0.5


def _legend(series: Series, number: int, width: int, *, colours: bool) -> str:
    import numpy as np

    curve = series.curve
    finite = np.flatnonzero(np.isfinite(curve.values))
    told = "no finite value"
    if len(finite):
        lowest = finite[np.argmin(curve.values[finite])]
        told = f"last {_at(curve, finite[-1])}, lowest {_at(curve, lowest)}"
        # A number that is cut off would be another one.
        if len(told) > width - SHORTEST:
            told = f"last {_at(curve, finite[-1])}"
    mark = "─" if colours else MARKS[number % len(MARKS)]
    label, room = printable(series.label), max(1, width - len(told) - 4)
    line = f"{mark} {label if len(label) <= room else label[: room - 1] + '…'}: {told}"[:width]
    return f"\x1b[{CODES[number % len(CODES)]}m{line}\x1b[0m" if colours else line


def _at(curve: Curve, point: int) -> str:
    return f"{curve.values[point]:.6g} at {curve.steps[point]}"


def _not_finite(series: Sequence[Series], width: int) -> list[str]:
    """Say what is not drawn."""
    import numpy as np

    lines = []
    for each in series:
        bad = np.flatnonzero(~np.isfinite(each.curve.values))
        if len(bad):
            last = f"the last {_at(each.curve, bad[-1])}"
            lines.append(f"{printable(each.label)}: {len(bad)} of {len(each.curve)} not finite, {last}"[:width])
    return lines


def _colour(number: int, *, colours: bool) -> dict[str, str]:
    return {"color": COLOURS[number % len(COLOURS)]} if colours else {}


def _chart(plot: Plot, scale: _Scale, width: int, height: int, *, colours: bool) -> list[str]:
    with optional_import("showing curves in the terminal", "'aimnet2mult[plot]'"):
        import plotext as plt  # type: ignore[import-untyped]

        # Version 6 has nothing of that name.
        from plotext import clear_figure

    clear_figure()
    plt.limit_size(False, False)
    plt.plot_size(width, height)
    plt.theme("clear")
    plt.xlim(0, 1)
    plt.ylim(0, 1)
    for ticks, show in ((scale.step_ticks(), plt.xticks), (scale.value_ticks(), plt.yticks)):
        show(list(ticks), list(ticks.values()))
    alone = colours or len(plot.series) == 1
    for number in range(len(plot.series)):
        steps, values = scale.place(number)
        if steps:
            mark = "braille" if alone else MARKS[number % len(MARKS)]
            plt.plot(steps, values, marker=mark, **_colour(number, colours=colours))
    marks = [_share(float(alert.step), scale.steps) for alert in plot.alerts]
    inside = [mark for mark in marks if 0 <= mark <= 1]
    if inside:
        plt.scatter(inside, [0.0] * len(inside), marker=ALERT, **({"color": "red+"} if colours else {}))
    text = plt.build()
    return [line.rstrip() for line in (text if colours else plt.uncolorize(text)).rstrip("\n").split("\n")]
