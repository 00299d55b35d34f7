"""The recent values of a watched metric."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from statistics import median

from telemetry.alerts.level import Level
from telemetry.alerts.settings import TREND_POINTS, AlertSettings

MAD_TO_STD = 1.4826
"""Standard deviations per median absolute deviation, for normally distributed values."""
MIN_DEVIATION, MIN_DEVIATION_EARLY, MIN_DEVIATION_EARLY_LOSS = 0.1, 0.5, 0.125
"""Lower bounds of the deviation, as fractions of the median, for metrics that have hardly varied so far."""
EARLY_POINTS = 10
"""The early bounds apply up to this many points. A loss usually falls at first, so even a small rise is a problem."""
DIVERGED_FACTOR = 10.0
"""A value diverges if it exceeds the median by more than this many times the median (see also ``Level.scale``)."""
MAX_HEALTHY_RISE = 3.0
"""A level up to this many times the lowest one is healthy. Restarts of the learning rate cause rises by a factor of two
to three."""


class MetricHistory:
    """The recent values of one watched metric, without its outliers.

    Attributes:
        level: the running median of all values, and its lowest value so far.
        baseline: the median that the last value was compared with; NaN before the second value.
        outliers: number of consecutive values, up to the last one, that exceeded the limit.
        diverging: number of consecutive values, up to the last one, that diverged.
    """

    def __init__(self, settings: AlertSettings, *, is_loss: bool) -> None:
        """Start without values; at first, a loss has a lower limit than other metrics."""
        self.level = Level()
        self.baseline = math.nan
        self.outliers = self.diverging = 0
        self._settings = settings
        self._min_deviation_early = MIN_DEVIATION_EARLY_LOSS if is_loss else MIN_DEVIATION_EARLY
        self._values: deque[float] = deque(maxlen=settings.history)

    def add(self, value: float) -> None:
        """Compare a finite value with the history, and append it unless it is an outlier.

        After ``history`` consecutive outliers, the history restarts: their level is the new normal, unless it is not
        healthy.
        """
        self.level.add(value)
        if not self._values or value <= self._limit():
            self.outliers = self.diverging = 0
            self._values.append(value)
            return
        self.outliers += 1
        diverges = value > self.baseline + DIVERGED_FACTOR * max(abs(self.baseline), self.level.scale)
        self.diverging = self.diverging + 1 if diverges else 0
        if self.outliers >= self._settings.history and self.is_healthy():
            self.outliers = self.diverging = 0
            self._values.clear()
            self._values.append(value)

    def is_healthy(self) -> bool:
        """Return whether the level is close to its lowest value."""
        return self.level.rise <= MAX_HEALTHY_RISE

    def is_spike(self) -> bool:
        """Return whether the last values form a spike."""
        return self.outliers >= self._settings.patience

    def trend(self) -> float:
        """Return the median of the last ``TREND_POINTS`` values divided by that of as many before; 1.0 if unknown."""
        if len(self._values) < 2 * TREND_POINTS or self.outliers:
            return 1.0
        newest_first = list(islice(reversed(self._values), 2 * TREND_POINTS))
        before = median(newest_first[TREND_POINTS:])
        return median(newest_first[:TREND_POINTS]) / before if before > 0 else 1.0

    def _limit(self) -> float:
        """Update the baseline, and return the highest value that is not an outlier."""
        self.baseline = median(self._values)
        deviation = MAD_TO_STD * median(abs(value - self.baseline) for value in self._values)
        fraction = MIN_DEVIATION if len(self._values) >= EARLY_POINTS else self._min_deviation_early
        deviation = max(deviation, fraction * abs(self.baseline)) or fraction * self.level.scale
        # A metric that was always 0 provides no scale.
        return self.baseline + self._settings.factor * deviation if deviation else math.inf
