"""When to retry a failing delivery, and when to give up."""

from __future__ import annotations

import math
from collections.abc import Callable

from telemetry.backoff import Backoff

RETRY_BACKOFF_INITIAL, RETRY_BACKOFF_MAX = 1.0, 60.0
"""Initial and maximum delay before a retry, in seconds; doubled after each failure."""


class Retries:
    """The state of a delivery that fails and recovers.

    Args:
        linger: how long to keep retrying once the time is limited, in seconds.
        clock: monotonic clock in seconds.
        jitter: function that returns a random number from 0 to 1; shortens each delay by up to half.
        backoff: the delays before shortening.

    Attributes:
        is_failing: whether the last attempt failed.
    """

    def __init__(
        self,
        linger: float,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        self.is_failing = False
        self._linger = linger
        self._clock = clock
        self._jitter = jitter
        self._backoff = backoff or Backoff(RETRY_BACKOFF_INITIAL, RETRY_BACKOFF_MAX)
        self._limited_since: float | None = None

    def next_delay(self, *, limited: bool) -> float | None:
        """Count a failure; return the delay in seconds before the next attempt, or None to give up.

        Args:
            limited: whether to give up ``linger`` seconds after the first limited failure since the last recovery.
        """
        self.is_failing = True
        budget = self._budget() if limited else math.inf
        if budget <= 0:
            return None
        return min(self._backoff.next_delay() * (0.5 + 0.5 * self._jitter()), budget)

    def reset(self) -> None:
        """Note that the sink has recovered."""
        self.is_failing = False
        self._limited_since = None
        self._backoff.reset()

    def _budget(self) -> float:
        if self._limited_since is None:
            self._limited_since = self._clock()
        return self._limited_since + self._linger - self._clock()
