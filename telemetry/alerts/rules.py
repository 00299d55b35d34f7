"""The rules that find problems, one per cause of an alert."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from telemetry.alerts.history import MetricHistory
from telemetry.alerts.settings import AlertSettings
from telemetry.metrics import Metric, stream_of
from telemetry.units import NO_UNIT

MIN_RISE, RISE_DEVIATIONS = 2.0, 3.0
"""An error has risen if its level is more than the first number times its lowest one, and the logarithm of the rise is
more than the second number times the scatter of the values. The median of 20 values scatters by 0.28 times that."""
MAX_LOW = 1.1
"""A loss is lowest up to this many times its lowest level, or up to its scatter above it."""
DIVERGED_RISE = 8.0
"""A training loss has diverged once its level is more than this many times its lowest one (see ``Level``)."""
RESTART = 2.0
"""A learning rate that rises by this factor from one point to the next was restarted."""
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


def rising_errors(
    values: Mapping[str, float],
    histories: Mapping[str, MetricHistory],
    metrics: Mapping[str, Metric],
    known: Mapping[str, Problem],
) -> Problems:
    """Find errors whose level has risen while the level of the loss of the same point is still the lowest.

    ``known`` are the problems found before; each lasts until most of the rise is gone.
    """
    found = {}
    # Outliers are reported as a spike.
    higher = [name for name in values if histories[name].level.rise > math.sqrt(MIN_RISE)]
    higher = [name for name in higher if not histories[name].outliers and not is_loss(name)]
    lowest = [loss for loss in values if is_loss(loss) and _is_lowest(histories[loss])] if higher else []
    for name in higher:
        history = histories[name]
        loss = next((loss for loss in lowest if name.startswith(loss.removesuffix("loss"))), None)
        risen = max(math.log(MIN_RISE), RISE_DEVIATIONS * history.scatter)
        if (loss or name in known) and math.log(history.level.rise) > (risen / 2 if name in known else risen):
            found[name] = _risen(name, loss, history, metrics[name])
    return found


def _is_lowest(history: MetricHistory) -> bool:
    return history.level.lowest < math.inf and math.log(history.level.rise) <= max(math.log(MAX_LOW), history.scatter)


class LearningRate:
    """Notice restarts of the learning rate, after which losses and errors rise for some time."""

    def __init__(self) -> None:
        """Start without values."""
        self._rates: dict[str, float] = {}

    def has_risen(self, stream: str, values: Mapping[str, float]) -> bool:
        """Return whether the learning rate of a point, named ``lr``, is ``RESTART`` times that of the previous one."""
        name = f"{stream}/lr"
        if name not in values:
            return False
        previous, self._rates[name] = self._rates.get(name, math.inf), values[name]
        return values[name] >= RESTART * previous


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


def _risen(name: str, loss: str | None, history: MetricHistory, metric: Metric) -> Problem:
    level, lowest = history.level.value, history.level.lowest
    text, lowest_text = format_value(level, metric), format_value(lowest, metric)
    while_low = f" while {loss} has not risen" if loss else ""
    title = f"worse: {name} is about {text}; it was already down to {lowest_text}{while_low}"
    return Problem(title, value=level, baseline=lowest)


def is_loss(name: str) -> bool:
    """Return whether a metric, given by its full name, is a loss."""
    return name.rpartition("/")[2] == "loss"


def is_training_loss(name: str) -> bool:
    """Return whether a metric, given by its full name, is a loss of training rather than of validation."""
    return is_loss(name) and stream_of(name) not in VALIDATION_STREAMS


def format_value(value: float, metric: Metric) -> str:
    """Return a value with its unit."""
    return f"{value:.4g}" if metric.unit in NO_UNIT else f"{value:.4g} {metric.unit}"
