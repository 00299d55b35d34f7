"""The level of a metric, and how far it lies above its lowest level."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

LEVEL_POINTS = 20
"""Points in the running median. With fewer, long-tailed noise causes false alarms; with more, alerts come later."""


class Level:
    """The running median of a metric, and the lowest one so far, which never rises.

    Unlike a ``MetricHistory``, it includes outliers, and a level that lasts does not become the new normal.

    Attributes:
        value: the median of the last ``LEVEL_POINTS`` values; NaN before there are as many.
        lowest: the lowest level so far; infinite before the first.
    """

    def __init__(self) -> None:
        """Start without values."""
        self.value, self.lowest = math.nan, math.inf
        self._values: deque[float] = deque(maxlen=LEVEL_POINTS)
        self._first_scale = 0.0
        self._has_negative = False

    def add(self, value: float) -> None:
        """Append a finite value."""
        self._values.append(value)
        self._has_negative |= value < 0
        if self.lowest == math.inf:
            self._first_scale = max(self._first_scale, abs(value))
        if len(self._values) == LEVEL_POINTS:
            self.value = median(self._values)
            self.lowest = min(self.lowest, self.value)

    @property
    def scale(self) -> float:
        """What a rise is measured in: the lowest level; 0 if unknown.

        Ratios of levels mean nothing if values can be negative, as log-likelihoods can, or if the lowest level is 0.
        The scale is then the largest magnitude among the first ``LEVEL_POINTS`` values.
        """
        if self._has_negative or not self.lowest:
            return self._first_scale
        return self.lowest if self.lowest < math.inf else 0.0

    @property
    def rise(self) -> float:
        """One plus the rise above the lowest level in units of ``scale``; 1.0 if unknown."""
        is_known = self.lowest < math.inf and self.scale > 0
        return 1.0 + (self.value - self.lowest) / self.scale if is_known else 1.0
