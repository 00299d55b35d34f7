"""The lines of the charts: which curve each shows, its points and its style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bokeh.models import ColumnDataSource

from telemetry.display.plot_layout import MAX_DRAWN_VALUE, alerts_about
from telemetry.display.thinning import thin
from telemetry.reading.curve import Curve
from telemetry.records import Alert
from telemetry.view.style import LEVEL_COLORS, LineStyle
from telemetry.view.texts import number_text, plain, step_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPARSE_POINTS = 60
"""Curves with up to this many points have a dot at each of them; a single point would otherwise be invisible."""
_MIN_FLOAT32, _MAX_FLOAT32 = 1e-37, 1e38
MAX_STRETCHES_MARKED = 50
"""Number of stretches of non-finite points that are marked, the last ones of each curve."""

Window = tuple[float, float]
"""First and last iteration that is drawn."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line on a chart.

    Attributes:
        run: key of the run.
        name: full name of the metric.
        label: what the tooltip calls it: the stream, after the run if there are several.
        style: how it is drawn.
        source: the drawn points, x and y.
        dots: those points that are also drawn as dots.
        smooth: the drawn points of the smoothed line; None without smoothing.
    """

    run: str
    name: str
    label: str
    style: LineStyle
    source: ColumnDataSource
    dots: ColumnDataSource
    smooth: ColumnDataSource | None = None

    def show(self, curve: Curve, *, stretches: int, window: Window | None = None, smoothing: int = 1) -> None:
        """Draw the curve, thinned outside of and once more within the window; non-finite values are gaps."""
        steps, values = _thinned(curve, stretches, window)
        dots = _isolated(values) if len(values) > SPARSE_POINTS else slice(None)
        self.source.data = _columns(steps, values)
        self.dots.data = _columns(steps[dots], values[dots])
        if self.smooth is not None:
            smoothed = replace(curve, values=running_mean(curve.values, smoothing))
            self.smooth.data = _columns(*_thinned(smoothed, stretches, window))


def new_line(*, run: str, name: str, label: str, style: LineStyle, smoothed: bool) -> Line:
    """Return a line without points."""
    source, dots, smooth = (ColumnDataSource(data={"x": [], "y": []}) for _ in range(3))
    return Line(
        run=run, name=name, label=label, style=style, source=source, dots=dots, smooth=smooth if smoothed else None
    )


def running_mean(values: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Return the mean of the finite values among the ``points`` (odd) points around each finite value.

    There are fewer at the ends. Other values become NaN. Both arrays have the shape (points of the curve,).
    """
    import numpy as np

    finite = np.isfinite(values)
    padded = np.pad(np.where(finite, values, 0.0), points // 2)
    counted = np.pad(finite.astype(np.float64), points // 2)
    # Not from cumulative sums, in which a huge value would drown all later ones.
    with np.errstate(over="ignore"):
        sums, counts = (
            np.lib.stride_tricks.sliding_window_view(each, points).sum(axis=1) for each in (padded, counted)
        )
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def _thinned(curve: Curve, stretches: int, window: Window | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    import numpy as np

    steps, values = thin(curve, stretches)
    if window is None or len(curve) <= len(steps):
        return steps, values
    inside = thin(curve, stretches, *window)
    before, after = steps < window[0], steps > window[1]
    return (
        np.concatenate([steps[before], inside[0], steps[after]]),
        np.concatenate([values[before], inside[1], values[after]]),
    )


def _isolated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are between two gaps, so that no line leads to them."""
    import numpy as np

    gap = np.concatenate([[True], ~np.isfinite(values), [True]])
    found: NDArray[np.bool_] = ~gap[1:-1] & gap[:-2] & gap[2:]
    return found


def _columns(steps: NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
    """Return the columns x and y, with half the bytes where this loses nothing that can be seen."""
    import numpy as np

    finite = np.where(np.isfinite(values), values, np.nan)
    small = not len(steps) or steps.max() <= np.iinfo(np.int32).max
    ordinary = finite[np.isfinite(finite) & (finite != 0)]
    fits = not len(ordinary) or (np.abs(ordinary).min() > _MIN_FLOAT32 and np.abs(ordinary).max() < _MAX_FLOAT32)
    return {
        "x": steps.astype(np.int32 if small else np.float64),
        "y": finite.astype(np.float32) if fits else np.clip(finite, -MAX_DRAWN_VALUE, MAX_DRAWN_VALUE),
    }


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical mark on a chart, with a text that appears on hovering."""

    step: int
    text: str
    color: str


def alert_marks(alerts: Sequence[Alert], names: Sequence[str], known: set[str], prefix: str) -> Iterator[Mark]:
    """Yield a mark for each alert about one of the metrics, or about none that is known; recoveries have no mark."""
    for alert in alerts_about(alerts, names, known):
        yield Mark(step=alert.step, text=plain(f"{prefix}{alert.message}"), color=LEVEL_COLORS[alert.level])


def non_finite_marks(curve: Curve, label: str) -> Iterator[Mark]:
    """Yield a mark at the beginning of each stretch of non-finite points."""
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(curve.values))
    stretches = np.split(bad, np.flatnonzero(np.diff(bad) > 1) + 1) if len(bad) else []
    for stretch in stretches[-MAX_STRETCHES_MARKED:]:
        first, last = int(curve.steps[stretch[0]]), int(curve.steps[stretch[-1]])
        until = f" to {step_text(last)} ({len(stretch)} points)" if len(stretch) > 1 else ""
        text = f"{label} is {number_text(curve.values[stretch[0]])} at iteration {step_text(first)}{until}"
        yield Mark(step=first, text=text, color=LEVEL_COLORS["error"])
