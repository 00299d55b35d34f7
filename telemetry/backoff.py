"""Delays between retries."""

from __future__ import annotations


class Backoff:
    """Delays that double from ``initial`` to ``maximum`` seconds, until the next reset."""

    def __init__(self, initial: float, maximum: float) -> None:
        self._initial = initial
        self._maximum = maximum
        self._delay = initial

    def next_delay(self) -> float:
        """Return the delay before the next retry, in seconds, and double the one after it."""
        delay = self._delay
        self._delay = min(self._maximum, 2 * delay)
        return delay

    def reset(self) -> None:
        """Start again from the initial delay."""
        self._delay = self._initial

    @property
    def is_at_maximum(self) -> bool:
        """Whether the next delay is the longest one."""
        return self._delay >= self._maximum
