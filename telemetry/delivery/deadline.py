"""The time left to wait for the sinks."""

from __future__ import annotations

import math
import time


class Deadline:
    """A point in time, at first infinitely late, that any thread or a signal handler may bring forward."""

    def __init__(self, seconds: float = math.inf) -> None:
        """Set it ``seconds`` from now."""
        self._at = time.monotonic() + seconds

    def shorten(self, seconds: float) -> None:
        """Set it ``seconds`` from now, unless it is earlier."""
        self._at = min(self._at, time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, 0 once it has passed."""
        return max(0.0, self._at - time.monotonic())
