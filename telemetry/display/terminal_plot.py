"""Draw plots as lines of text.

plotext has a markup language, so text from a run is never passed to it: plotext draws only the numbers, and titles and
legends are added around them here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from telemetry.display.plot_layout import Plot, Series, downsample
from telemetry.plugins.optional_imports import optional_import
from telemetry.printable import printable
from telemetry.reading.curve import Curve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLOURS = ("blue+", "orange+", "green+", "magenta+", "cyan+", "red+", "white")
"""Colours of the curves, as plotext names them."""
SGR_CODES = ("94", "93", "92", "95", "96", "91", "37")
"""SGR codes of the same colours, for the legend."""
MIN_LABEL_WIDTH = 12
"""Number of characters of a legend line reserved for the label of the curve."""
MARKS = "*o+x#@%&"
"""Marks of the curves in plots without colours."""
ALERT_MARK = "!"
_MAX_TICKS, _ROWS_PER_TICK = 5, 3
_ROUNDING = 1 - 1e-9
"""Factor that keeps a tick at the lower end of an axis despite rounding errors."""


def draw(plot: Plot, *, width: int, height: int, colours: bool) -> list[str]:
    """Return a plot as lines of up to ``width`` characters: a title, ``height`` lines, and a legend.

    With ``colours``, lines contain SGR escape sequences; they contain no other control characters.

    Raises:
        PackageNotInstalled: plotext is not installed.
    """
    scale = _Scale(plot, width, height)
    title = printable(plot.title) + (" (log scale)" if scale.log else "")
    return [
        f"{title:^{width}.{width}}".rstrip(),
        *(_chart(plot, scale, width, height, colours=colours) if scale.has_points else []),
        *(_legend_line(each, number, width, colours=colours) for number, each in enumerate(plot.series)),
        *_non_finite_lines(plot.series, width),
    ]


def side_by_side(blocks: Sequence[Sequence[str]], width: int, gap: int) -> list[str]:
    """Return blocks of lines placed side by side, each ``width`` columns wide, ``gap`` columns apart."""
    height = max(map(len, blocks))
    rows = [[*block, *[""] * (height - len(block))] for block in blocks]
    return [(" " * gap).join(_pad(line, width) for line in row).rstrip() for row in zip(*rows, strict=True)]


def _pad(line: str, width: int) -> str:
    return line + " " * (width - _visible_length(line))


def _visible_length(line: str) -> int:
    """Return the number of characters, not counting SGR sequences."""
    return sum(len(part.partition("m")[2] if number else part) for number, part in enumerate(line.split("\x1b[")))


class _Scale:
    """Map iterations and values to positions on the plot, from 0 to 1."""

    def __init__(self, plot: Plot, columns: int, rows: int) -> None:
        import numpy as np

        self._rows = rows
        self.log = plot.is_log
        self._points = [downsample(each.curve, columns) for each in plot.series]
        steps = np.concatenate([steps for steps, _ in self._points]).astype(float)
        values = self._scaled(np.concatenate([values for _, values in self._points]))
        self.has_points = len(steps) > 0
        self.step_range = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 1.0)
        self._value_range = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)

    def positions(self, number: int) -> tuple[list[float], list[float]]:
        """Return the positions of the points of a series along both axes."""
        steps, values = self._points[number]
        horizontal = _positions(steps.astype(float), self.step_range)
        return horizontal.tolist(), _positions(self._scaled(values), self._value_range).tolist()

    def step_ticks(self) -> dict[float, str]:
        ticks = _round_numbers(self.step_range, _MAX_TICKS, min_step=1.0)
        return {_position(step, self.step_range): f"{step:.0f}" for step in ticks}

    def value_ticks(self) -> dict[float, str]:
        count = max(1, min(_MAX_TICKS, self._rows // _ROWS_PER_TICK))
        if not self.log:
            ticks = _round_numbers(self._value_range, count)
            return {_position(value, self._value_range): f"{value:.6g}" for value in ticks}
        low, high = self._value_range
        exponents = [low + (high - low) * i / count for i in range(count + 1)]
        return {_position(exponent, self._value_range): f"{10**exponent:.3g}" for exponent in exponents}

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.log10(values) if self.log else values


def _round_numbers(limits: tuple[float, float], count: int, min_step: float = 0.0) -> list[float]:
    """Return about ``count`` round numbers within the limits, or the limits if there are none."""
    low, high = limits
    span = (high - low) / count
    if span < sys.float_info.min:
        return [low]
    unit = 10.0 ** math.floor(math.log10(span))
    step = max(min_step, next(unit * n for n in (1, 2, 5, 10) if unit * n >= span / 1.5))
    first = math.ceil(low / step * _ROUNDING) if low > 0 else math.ceil(low / step)
    found = [n * step for n in range(first, first + 2 * count + 1) if low <= n * step <= high]
    return found or [low, high]


def _positions(numbers: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    import numpy as np

    low, high = limits
    return (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)


def _position(number: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return (number - low) / (high - low) if high > low else 0.5


def _legend_line(series: Series, number: int, width: int, *, colours: bool) -> str:
    import numpy as np

    curve = series.curve
    finite = np.flatnonzero(np.isfinite(curve.values))
    text = "no finite value"
    if len(finite):
        word, find = ("highest", np.argmax) if curve.better == "higher" else ("lowest", np.argmin)
        text = f"last {_point(curve, finite[-1])}, {word} {_point(curve, finite[find(curve.values[finite])])}"
        # A truncated number would be misread, so omit the best value entirely.
        if len(text) > width - MIN_LABEL_WIDTH:
            text = f"last {_point(curve, finite[-1])}"
    mark = "─" if colours else MARKS[number % len(MARKS)]
    label, room = printable(series.label), max(1, width - len(text) - 4)
    line = f"{mark} {label if len(label) <= room else label[: room - 1] + '…'}: {text}"[:width]
    return f"\x1b[{SGR_CODES[number % len(SGR_CODES)]}m{line}\x1b[0m" if colours else line


def _point(curve: Curve, index: int) -> str:
    return f"{curve.values[index]:.6g} at {curve.steps[index]}"


def _non_finite_lines(series: Sequence[Series], width: int) -> list[str]:
    """Return a line for each curve with points that cannot be drawn."""
    import numpy as np

    lines = []
    for each in series:
        bad = np.flatnonzero(~np.isfinite(each.curve.values))
        if len(bad):
            count = f"{len(bad)} of {len(each.curve)} points not finite"
            lines.append(f"{printable(each.label)}: {count}, the last {_point(each.curve, bad[-1])}"[:width])
    return lines


def _chart(plot: Plot, scale: _Scale, width: int, height: int, *, colours: bool) -> list[str]:
    with optional_import("showing curves in the terminal", "'aimnet2mult[plot]'"):
        import plotext as plt  # type: ignore[import-untyped]

        # Missing in version 6, which is not supported.
        from plotext import clear_figure

    clear_figure()
    plt.limit_size(False, False)
    plt.plot_size(width, height)
    plt.theme("clear")
    plt.xlim(0, 1)
    plt.ylim(0, 1)
    for ticks, set_ticks in ((scale.step_ticks(), plt.xticks), (scale.value_ticks(), plt.yticks)):
        set_ticks(list(ticks), list(ticks.values()))
    # Braille dots of several curves can be told apart only by colour.
    use_braille = colours or len(plot.series) == 1
    for number in range(len(plot.series)):
        steps, values = scale.positions(number)
        if steps:
            mark = "braille" if use_braille else MARKS[number % len(MARKS)]
            colour = {"color": COLOURS[number % len(COLOURS)]} if colours else {}
            plt.plot(steps, values, marker=mark, **colour)
    alerts = [_position(float(alert.step), scale.step_range) for alert in plot.alerts]
    inside = [position for position in alerts if 0 <= position <= 1]
    if inside:
        plt.scatter(inside, [0.0] * len(inside), marker=ALERT_MARK, **({"color": "red+"} if colours else {}))
    text = plt.build()
    return [line.rstrip() for line in (text if colours else plt.uncolorize(text)).rstrip("\n").split("\n")]
