"""The lines of the charts: which curve each shows, its points and its style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bokeh.models import ColumnDataSource

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
DOT_SIZE = 5
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
        source: the drawn points, x and y, and the size of the dot at each.
        smooth: the drawn points of the smoothed line; None without smoothing.
    """

    run: str
    name: str
    label: str
    style: LineStyle
    source: ColumnDataSource
    smooth: ColumnDataSource | None = None

    def show(self, curve: Curve, *, stretches: int, window: Window | None = None, smoothing: int = 1) -> None:
        """Draw the curve, thinned outside of and once more within the window; non-finite values are gaps."""
        steps, values = _thinned(curve, stretches, window)
        size = DOT_SIZE if len(values) <= SPARSE_POINTS else 0
        self.source.data = {"x": steps, "y": _gaps(values), "size": _dots(values, size)}
        if self.smooth is not None:
            steps, values = _thinned(replace(curve, values=running_mean(curve.values, smoothing)), stretches, window)
            self.smooth.data = {"x": steps, "y": values}


def new_line(*, smoothed: bool, **fields: str | LineStyle) -> Line:
    """Return a line without points."""
    empty = {"x": [], "y": []}
    source = ColumnDataSource(data={**empty, "size": []})
    return Line(source=source, smooth=ColumnDataSource(data=empty) if smoothed else None, **fields)  # type: ignore[arg-type]


def running_mean(values: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Return the mean of the finite values among ``points`` points around each point; NaN if there are none.

    The window is centered and shorter at the ends. Both arrays have the shape (points of the curve,).
    """
    import numpy as np

    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    middle = np.arange(len(values))
    half = np.minimum(np.minimum(middle, len(values) - 1 - middle), points // 2)
    low, high = middle - half, middle + half + 1
    with np.errstate(invalid="ignore"):
        return np.where(finite, (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1), np.nan)


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


def _gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return np.where(np.isfinite(values), values, np.nan)


def _dots(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the size of the dot at each point; points between two gaps always have one, as no line leads to them."""
    import numpy as np

    gap = np.concatenate([[True], ~np.isfinite(values), [True]])
    return np.where(gap[:-2] & gap[2:], DOT_SIZE, size).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical mark on a chart, with a text that appears on hovering."""

    step: int
    text: str
    color: str


def alert_marks(alerts: Sequence[Alert], names: Sequence[str], known: set[str], prefix: str) -> Iterator[Mark]:
    """Yield a mark for each alert about one of the metrics, or about none that is known; recoveries have no mark."""
    for alert in alerts:
        if not alert.recovered and (alert.metric in names or alert.metric not in known):
            text = f"{prefix}{alert.title}: {alert.text}" if alert.text else f"{prefix}{alert.title}"
            yield Mark(step=alert.step, text=plain(text), color=LEVEL_COLORS[alert.level])


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
