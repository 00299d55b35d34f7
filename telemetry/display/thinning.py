"""Thin curves for drawing, so that no spike and no gap is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telemetry.reading.curve import Curve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def thin(
    curve: Curve, stretches: int = 500, start: float | None = None, end: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps and values of the points needed to draw a curve from iteration ``start`` to ``end``.

    The visible range is divided into stretches of the same number of iterations. Of each, the lowest and the highest
    finite value are kept, and the first value that is not finite. The first and the last visible point are kept, and
    the neighbors of the range, so that lines reach the edges. Both arrays have the shape (kept points,).

    Args:
        curve: the curve.
        stretches: number of stretches, such as half the width of the chart in pixels.
        start: first visible iteration; by default, that of the curve.
        end: last visible iteration; by default, that of the curve.
    """
    import numpy as np

    low, high = -np.inf if start is None else start, np.inf if end is None else end
    visible = np.flatnonzero((curve.steps >= low) & (curve.steps <= high))
    before, after = np.flatnonzero(curve.steps < low)[-1:], np.flatnonzero(curve.steps > high)[:1]
    if len(visible) > 2 * stretches:
        visible = visible[_needed(curve.steps[visible], curve.values[visible], stretches)]
    kept = np.sort(np.concatenate([before, visible, after]))
    return curve.steps[kept], curve.values[kept]


def _needed(steps: NDArray[np.int64], values: NDArray[np.float64], stretches: int) -> NDArray[np.intp]:
    """Return the indices of the points to keep, ascending."""
    import numpy as np

    low, high = float(steps.min()), float(steps.max())
    width = max(high - low, 1.0) / stretches
    stretch = np.minimum((steps - low) / width, stretches - 1).astype(np.intp)
    finite = np.isfinite(values)
    kept = [np.array([0, len(steps) - 1]), _first_of_each(stretch, np.flatnonzero(~finite))]
    for extreme, worst in ((np.minimum, np.inf), (np.maximum, -np.inf)):
        found = np.full(stretches, worst)
        extreme.at(found, stretch[finite], values[finite])
        kept.append(_first_of_each(stretch, np.flatnonzero(finite & (values == found[stretch]))))
    return np.unique(np.concatenate(kept))


def _first_of_each(stretch: NDArray[np.intp], points: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the first of the points in each stretch."""
    import numpy as np

    return points[np.unique(stretch[points], return_index=True)[1]]
