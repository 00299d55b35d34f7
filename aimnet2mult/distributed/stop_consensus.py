"""Agreement between the ranks to stop at the same iteration, soon after one of them gets a reason to."""

import time
from collections.abc import Callable

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_signal import StopSignal

__all__ = ["StopConsensus"]

EXCHANGE_INTERVAL = 0.5
"""Approximate interval between exchanges, in seconds; a stop then takes less than 2 s plus one iteration."""


class StopConsensus:
    """The decision to stop, which is identical on all ranks.

    The ranks exchange their reasons every few iterations. Rank 0 determines the number of iterations from its own
    speed, increasing it by a factor of up to 2 each time, and sends it with each exchange, so that it is the same on
    all ranks. A single process exchanges nothing.

    Args:
        stop: the stop signal of this rank.
        communicator: communicator of the ranks.
        has_diverged: function that returns whether to stop because the run has diverged.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        stop: StopSignal,
        communicator: Communicator,
        *,
        has_diverged: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.diverged = False
        """Whether the ranks are stopping because the run has diverged."""
        self.failed = False
        """Whether the ranks are stopping because a rank cannot continue."""
        self._stop = stop
        self._communicator = communicator
        self._has_diverged = has_diverged
        self._clock = clock
        self._agreed = False
        self.reset_interval()

    def reset_interval(self) -> None:
        """Make the next exchange due after one iteration, because iterations may be slower from now on."""
        self._interval = self._iterations_left = 1
        self._last_exchange = self._clock()

    def should_stop(self, *, now: bool = False, failed: bool = False) -> bool:
        """Return whether all ranks should stop now; all of them must call this after each iteration.

        Once this has returned True, ``stop.signal``, `diverged` and `failed` are the same on all ranks.

        Args:
            now: exchange even if no exchange is due.
            failed: whether this rank cannot continue.
        """
        if self._communicator.world_size == 1:
            self.diverged = self.diverged or self._has_diverged()
            self.failed = self.failed or failed
            return self.diverged or self.failed or self._stop.requested
        self._iterations_left -= 1
        if self._agreed or (self._iterations_left > 0 and not now):
            return self._agreed
        signal, diverged, failure, interval = self._communicator.all_reduce_max(
            [self._stop.signal or 0, int(self._has_diverged()), int(failed), self._next_interval()]
        )
        if signal or diverged or failure:
            self._stop.signal = signal or None
            self.diverged, self.failed = bool(diverged), bool(failure)
            self._agreed = True
        self._interval = self._iterations_left = interval
        self._last_exchange = self._clock()
        return self._agreed

    def _next_interval(self) -> int:
        """Return rank 0's number of iterations until the next exchange; on other ranks, return 0, which never wins."""
        if self._communicator.rank:
            return 0
        done = max(1, self._interval - self._iterations_left)
        seconds = max(self._clock() - self._last_exchange, 1e-9) / done
        return max(1, min(2 * self._interval, int(EXCHANGE_INTERVAL / seconds)))
