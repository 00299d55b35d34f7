"""Draw plots as lines of text.

plotext has a markup language, so text from a run is never passed to it: plotext draws only the numbers, and the title
is added above them here. The legend is a table (see ``value_table``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from telemetry.display.plot_layout import Plot, downsample
from telemetry.display.styles import Style
from telemetry.display.text_width import cut, pad, width_of
from telemetry.plugins.optional_imports import optional_import
from telemetry.printable import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALERT_MARK = "!"
_MAX_TICKS, _ROWS_PER_TICK = 5, 3
_ROUNDING = 1 - 1e-9
"""Factor that keeps a tick at the lower end of an axis despite rounding errors."""


def draw(plot: Plot, styles: Mapping[str, Style], *, width: int, height: int, colors: bool) -> list[str]:
    """Return a plot as lines of up to ``width`` columns: a title, and ``height`` lines unless no point is finite.

    With ``colors``, lines contain SGR escape sequences; they contain no other control characters.

    Args:
        plot: the plot.
        styles: the style of each curve, by label.
        width: the available columns.
        height: number of lines below the title.
        colors: whether curves are drawn in colors instead of with different marks.

    Raises:
        PackageNotInstalled: plotext is not installed.
    """
    scale = _Scale(plot, width, height)
    title = _title(plot, width, log=scale.log)
    return [
        f"{' ' * ((width - width_of(title)) // 2)}{title}",
        *(_chart(plot, scale, styles, width, height, colors=colors) if scale.has_points else ["no finite values"]),
    ]


def _title(plot: Plot, width: int, *, log: bool) -> str:
    """Return the longest title that fits: the quantity with its unit, the scale, and the direction."""
    scale = ["log scale"] if log else []
    direction = [plot.direction] if plot.direction else []
    forms = [", ".join([plot.title, *more]) for more in ([*scale, *direction], direction, scale)]
    return next((form for form in map(printable, forms) if width_of(form) <= width), cut(plot.title, width))


def side_by_side(blocks: Sequence[Sequence[str]], width: int, gap: int) -> list[str]:
    """Return blocks of lines placed side by side, each ``width`` columns wide, ``gap`` columns apart."""
    height = max(map(len, blocks))
    rows = [[*block, *[""] * (height - len(block))] for block in blocks]
    return [(" " * gap).join(pad(line, width) for line in row).rstrip() for row in zip(*rows, strict=True)]


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
        ticks = _round_on_log_scale(self._value_range, count)
        return {_position(exponent, self._value_range): f"{10**exponent:.3g}" for exponent in ticks}

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


def _round_on_log_scale(limits: tuple[float, float], count: int) -> list[float]:
    """Return the logarithms of up to ``count`` + 1 round numbers within the limits, which are logarithms."""
    low, high = limits
    for factors in ((1, 2, 5), (1, 3), (1,)):
        exponents = range(math.floor(low), math.ceil(high) + 1)
        found = [e + math.log10(f) for e in exponents for f in factors if low <= e + math.log10(f) <= high]
        if 2 <= len(found) <= count + 1:  # noqa: PLR2004 - one tick shows no scale
            return found
    powers = [float(e) for e in range(math.ceil(low), math.floor(high) + 1)]
    return powers[:: -(-len(powers) // (count + 1))] if len(powers) > count else [low, high]


def _positions(numbers: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    import numpy as np

    low, high = limits
    return (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)


def _position(number: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return (number - low) / (high - low) if high > low else 0.5


def _chart(
    plot: Plot, scale: _Scale, styles: Mapping[str, Style], width: int, height: int, *, colors: bool
) -> list[str]:
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
    # Braille dots of several curves can be told apart only by color.
    use_braille = colors or len(plot.series) == 1
    for number, series in enumerate(plot.series):
        steps, values = scale.positions(number)
        if steps:
            style = styles[series.label]
            mark = "braille" if use_braille else style.mark
            plt.plot(steps, values, marker=mark, **({"color": style.color} if colors else {}))
    alerts = [_position(float(alert.step), scale.step_range) for alert in plot.alerts]
    inside = [position for position in alerts if 0 <= position <= 1]
    if inside:
        plt.scatter(inside, [0.0] * len(inside), marker=ALERT_MARK, **({"color": "red+"} if colors else {}))
    text = plt.build()
    return [line.rstrip() for line in (text if colors else plt.uncolorize(text)).rstrip("\n").split("\n")]
