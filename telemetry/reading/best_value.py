"""Find the best value of a metric in a journal."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from telemetry.metrics import Direction, possible_streams
from telemetry.reading.curve import Curve
from telemetry.reading.stream_points import read_streams


class BestValue(msgspec.Struct, frozen=True, kw_only=True):
    """The best finite value of a metric and the first iteration with this value."""

    value: float
    step: int


def find_best_value(folder: Path, numbers: list[int], metric: str, better: Direction) -> BestValue | None:
    """Return the lowest or highest finite value of a metric in the segments ``numbers``; None if there is none.

    ``metric`` is a full name, ``stream/name``. Superseded records do not count.
    """
    sign = -1 if better == "higher" else 1
    best: BestValue | None = None
    for record in read_streams(folder, numbers, possible_streams(metric)):
        value = record.values.get(metric.removeprefix(f"{record.stream}/"), math.nan)
        if math.isfinite(value) and (best is None or sign * value < sign * best.value):
            best = BestValue(value=value, step=record.step)
    return best


def best_of_curve(curve: Curve) -> BestValue | None:
    """Return the first best finite value of a curve; None if there is none, or if no values are better than others."""
    import numpy as np

    finite = np.flatnonzero(np.isfinite(curve.values))
    if not len(finite) or curve.better is None:
        return None
    find = np.argmax if curve.better == "higher" else np.argmin
    best = finite[find(curve.values[finite])]
    return BestValue(value=float(curve.values[best]), step=int(curve.steps[best]))
