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

    def add(self, value: float) -> None:
        """Append a finite value."""
        self._values.append(value)
        if len(self._values) == LEVEL_POINTS:
            self.value = median(self._values)
            self.lowest = min(self.lowest, self.value)

    @property
    def rise(self) -> float:
        """The level divided by the lowest level; 1.0 if unknown, or if the lowest level is not positive."""
        return self.value / self.lowest if 0 < self.lowest < math.inf else 1.0
