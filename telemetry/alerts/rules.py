"""The rules that find problems, one per cause of an alert."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from telemetry.alerts.history import MetricHistory
from telemetry.alerts.settings import AlertSettings
from telemetry.metrics import Metric
from telemetry.units import NO_UNIT

MIN_STREAK = 5
"""Number of consecutive points with a value after which the absence of the metric is a problem."""
FALLING, RISING = 0.9, 1.25
"""A metric is falling if its trend (see ``MetricHistory.trend``) is at most the first number, and rising if it is at
least the second."""
DIVERGED_RISE = 8.0
"""A training loss has diverged once its level is more than this many times its lowest one (see ``Level``)."""
VALIDATION_STREAMS = frozenset({"val", "valid", "validation", "eval", "test"})
"""Streams whose losses also rise for another reason: overfitting."""
STALL_FACTOR = 20.0
"""Training has stalled if no point arrives for this many times the longest recent interval."""


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one metric: the title of its alert, and the numbers behind it."""

    title: str
    value: float | None = None
    baseline: float | None = None


Problems = dict[str, Problem]
"""Problems of one cause, by full name of the metric."""


def non_finite(values: Mapping[str, float]) -> Problems:
    """Find values that are NaN or infinite; losses come first."""
    return {
        name: Problem(f"{name} is {'NaN' if math.isnan(value) else 'infinite'}", value=value)
        for name, value in sorted(values.items(), key=lambda item: not is_loss(item[0]))
        if not math.isfinite(value)
    }


def spikes(
    values: Mapping[str, float], histories: Mapping[str, MetricHistory], metrics: Mapping[str, Metric]
) -> Problems:
    """Find values far above their history (which already includes them)."""
    found = {}
    for name, value in values.items():
        if histories[name].is_spike():
            usual = histories[name].baseline
            text, usual_text = format_value(value, metrics[name]), format_value(usual, metrics[name])
            title = f"spike: {name} is {text}, usually {usual_text}"
            found[name] = Problem(title, value=value, baseline=usual)
    return found


def divergences(
    values: Mapping[str, float],
    histories: Mapping[str, MetricHistory],
    metrics: Mapping[str, Metric],
    known: Mapping[str, Problem],
) -> Problems:
    """Find training losses whose level is far above its lowest one, however slowly it rose.

    ``known`` are the problems found before; each lasts until the level is healthy again.
    """
    found = {}
    for name in filter(is_training_loss, values):
        history = histories[name]
        if history.level.rise > DIVERGED_RISE or (name in known and not history.is_healthy()):
            level, lowest = history.level.value, history.level.lowest
            text, lowest_text = format_value(level, metrics[name]), format_value(lowest, metrics[name])
            title = f"diverging: {name} is about {text}; it was already down to {lowest_text}"
            found[name] = Problem(title, value=level, baseline=lowest)
    return found


def opposite_trends(values: Mapping[str, float], histories: Mapping[str, MetricHistory]) -> Problems:
    """Find metrics of a point that rise while the loss of that point falls, or vice versa."""
    trends = {name: histories[name].trend() for name in values}
    for loss in filter(is_loss, trends):
        if trends[loss] <= FALLING:
            loss_moves, others_move, others = "falls", "rises", [n for n in trends if trends[n] >= RISING]
        elif trends[loss] >= RISING:
            loss_moves, others_move, others = "rises", "falls", [n for n in trends if trends[n] <= FALLING]
        else:
            continue
        if others:
            title = f"loss and error move in opposite directions: {loss} {loss_moves} while"
            return {name: Problem(f"{title} {name} {others_move}", value=values[name]) for name in others}
    return {}


class MissingValues:
    """Find metrics that had values and have none now, for example because a label or a fidelity is missing."""

    def __init__(self) -> None:
        # By stream and metric: number of consecutive points with a value.
        self._streaks: dict[str, dict[str, int]] = {}

    def check(
        self, stream: str, values: Mapping[str, float], known: Mapping[str, Problem]
    ) -> tuple[set[str], Problems]:
        """Compare a point with the earlier ones of its stream.

        Args:
            stream: the stream of the point.
            values: the values of the point.
            known: problems found before; each lasts until the metric has a value again.

        Returns:
            All metrics that the stream had before this point, and the problems among them.
        """
        streaks = self._streaks.setdefault(stream, {})
        earlier = set(streaks)
        found = {
            name: Problem(f"no labels: {name} had values before and has none now")
            for name, streak in streaks.items()
            if name not in values and (streak >= MIN_STREAK or name in known)
        }
        for name in dict.fromkeys([*streaks, *values]):
            streaks[name] = streaks.get(name, 0) + 1 if name in values else 0
        return earlier, found


class Stall:
    """Detect that no point has arrived for a long time."""

    def __init__(self, settings: AlertSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Measure intervals with ``clock``, a monotonic clock in seconds."""
        self._min_silence = settings.stalled
        self._clock = clock
        self._intervals: deque[float] = deque(maxlen=settings.history)
        self._last: float | None = None

    def note_point(self) -> None:
        """Record that a point has just arrived."""
        now = self._clock()
        if self._last is not None:
            # Reported stalls are included: a pause that ended by itself, such as a long validation, is normal.
            self._intervals.append(now - self._last)
        self._last = now

    def check(self) -> Problems:
        """Find a pause that is much longer than the recent intervals; before the second point there is none."""
        if self._last is None or not self._intervals:
            return {}
        silence, longest = self._clock() - self._last, max(self._intervals)
        if silence < max(self._min_silence, STALL_FACTOR * longest):
            return {}
        return {"": Problem(f"no new point for {silence:.0f} s; the longest recent interval was {longest:.1f} s")}


def is_loss(name: str) -> bool:
    """Return whether a metric, given by its full name, is a loss."""
    return name.rpartition("/")[2] == "loss"


def is_training_loss(name: str) -> bool:
    """Return whether a metric, given by its full name, is a loss of training rather than of validation."""
    return is_loss(name) and name.partition("/")[0] not in VALIDATION_STREAMS


def format_value(value: float, metric: Metric) -> str:
    """Return a value with its unit."""
    return f"{value:.4g}" if metric.unit in NO_UNIT else f"{value:.4g} {metric.unit}"
