"""The recent values of a watched metric."""

from __future__ import annotations

import math
from collections import deque
from operator import sub
from statistics import median

from telemetry.alerts.level import Level
from telemetry.alerts.settings import AlertSettings

RECENT_POINTS = 15
"""Points in the median that a value is compared with, so that it keeps up with a falling loss."""
DIFFERENCE_TO_STD = 1.0483
"""Standard deviations per median absolute difference of successive values, 1 / (0.6745 * sqrt(2)), for independent,
normally distributed values. Unlike deviations from the median, differences do not contain the trend (von Neumann et
al., Ann. Math. Stat. 12, 153 (1941)); their median tolerates outliers."""
MIN_DEVIATION, MIN_DEVIATION_EARLY = 0.15, 0.2
"""Lower bounds of the deviation. With the default ``factor`` of 8, a spike is thus at least 3.3 times the median, and 5
times among the first points."""
MIN_POINTS = 10
"""Points in the history from which a single value can be a spike; the early bound applies up to as many."""
MIN_EARLY_OUTLIERS = 3
EVIDENT_FACTOR = 100.0
"""Before that, this many outliers in a row form a spike, or one that is this many times higher than the lowest value:
with a far too large learning rate, a single point may precede the spike."""
DIVERGED_FACTOR = 10.0
"""A value diverges, however widely the values scatter, if it exceeds the median by more than this many times the median
(see also ``Level.scale``)."""
MAX_RISE = 4.0
"""A value above the median by more than this many times the median is high even if the values scatter widely."""
MAX_HEALTHY_RISE = 3.0
"""A level up to this many times the lowest one is healthy. Restarts of the learning rate cause rises by a factor of two
to three."""


class MetricHistory:
    """The recent values of one watched metric, without its outliers.

    Errors scatter by a percentage of their level, so the logarithms of the values are compared. Once a value is not
    positive, the values themselves are, and deviations are relative to the median.

    Attributes:
        level: the running median of all values, and its lowest value so far.
        baseline: the usual value that the last one was compared with: the median, or at first the lowest value; NaN
            before the second value.
        scatter: the standard deviation of the logarithms of the recent values, or their relative standard deviation;
            0 before there are ``MIN_POINTS``.
        outliers: number of values since one lay more than ``factor`` deviations above the baseline, or diverged, if
            all of them were high. Before there are ``MIN_POINTS``, all of them must lie that far above it.
        is_high: whether the last value lies more than half as many deviations above it or above the median of all
            recent values, or exceeds it by ``MAX_RISE``.
        diverging: number of consecutive values, up to the last one, that diverged.
    """

    def __init__(self, settings: AlertSettings) -> None:
        """Start without values."""
        self.level = Level()
        self.baseline = math.nan
        self.scatter = 0.0
        self.outliers = self.diverging = 0
        self._settings = settings
        self._values: deque[float] = deque(maxlen=settings.history)
        self._logarithmic = True
        self._points_of_rise = 0
        self.is_high = self._is_evident = False

    def add(self, value: float) -> None:
        """Compare a finite value with the history, and append it unless it is an outlier.

        After ``history`` consecutive outliers, the history restarts: their level is the new normal, unless it is not
        healthy.
        """
        self.level.add(value)
        if self._logarithmic and value <= 0:
            self._logarithmic = False
            self._values.extend([math.exp(self._values.popleft()) for _ in range(len(self._values))])
        deviations, slow_deviations = self._deviations(value) if self._values else (0.0, 0.0)
        rise, unit = value - self.baseline, max(abs(self.baseline), self.level.scale)
        highest = max(deviations, slow_deviations)
        self.is_high = highest > self._settings.factor / 2 or rise > MAX_RISE * unit > 0
        if self._points_of_rise and self._values:
            self._points_of_rise -= 1
            deviations, _ = self._deviations(value / MAX_HEALTHY_RISE)
            rise = value / MAX_HEALTHY_RISE - self.baseline
        diverges = rise > DIVERGED_FACTOR * unit > 0
        is_outlier = deviations > self._settings.factor or diverges
        if not (is_outlier or (self.outliers and self.is_high and len(self._values) >= MIN_POINTS)):
            self.outliers = self.diverging = 0
            self._append(value)
            return
        self.outliers += 1
        self.diverging = self.diverging + 1 if diverges else 0
        self._is_evident = rise > EVIDENT_FACTOR * unit
        if self.outliers >= self._settings.history and self.is_healthy():
            self.outliers = self.diverging = 0
            self._values.clear()
            self._append(value)

    def expect_rise(self) -> None:
        """Expect the next ``RECENT_POINTS`` values to be up to ``MAX_HEALTHY_RISE`` times higher."""
        self._points_of_rise = RECENT_POINTS

    def is_healthy(self) -> bool:
        """Return whether the level is close to its lowest value."""
        return self.level.rise <= MAX_HEALTHY_RISE

    def is_spike(self) -> bool:
        """Return whether the last values form a spike."""
        least = 1 if len(self._values) >= MIN_POINTS or self._is_evident else MIN_EARLY_OUTLIERS
        return self.outliers >= max(least, self._settings.patience)

    def _append(self, value: float) -> None:
        self._values.append(math.log(value) if self._logarithmic else value)

    def _deviations(self, value: float) -> tuple[float, float]:
        """Update the baseline and the scatter, and return how many deviations a value lies above the baseline.

        The second number is that above the median of all recent values, which lags behind a slow rise.
        """
        values = list(self._values)
        is_early = len(values) < MIN_POINTS
        # Losses fall at first, so the first values are compared with the lowest one instead of their scatter.
        center = min(values) if is_early else median(values[-RECENT_POINTS:])
        slow_center = center if is_early else sorted(values)[len(values) // 2]
        # Not pairwise in a comprehension, which takes twice as long.
        differences = map(abs, map(sub, values[1:], values))
        deviation = 0.0 if is_early else DIFFERENCE_TO_STD * median(differences)
        self.baseline = math.exp(center) if self._logarithmic else center
        unit = 1.0 if self._logarithmic else abs(center) or self.level.scale
        if not unit:
            # A metric that was always 0 provides no scale.
            return 0.0, 0.0
        self.scatter = deviation / unit
        position = math.log(value) if self._logarithmic else value
        width = unit * max(self.scatter, MIN_DEVIATION_EARLY if is_early else MIN_DEVIATION)
        return (position - center) / width, (position - slow_center) / width
