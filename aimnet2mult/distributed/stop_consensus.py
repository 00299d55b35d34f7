"""Agreement between the ranks to stop, or to write a checkpoint, at the same iteration."""

import math
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
        is_time_up: function that returns whether to stop because of a time limit; only rank 0 calls it.
        checkpoint_interval: time between checkpoints, in seconds, by the clock of rank 0.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        stop: StopSignal,
        communicator: Communicator,
        *,
        has_diverged: Callable[[], bool] = lambda: False,
        is_time_up: Callable[[], bool] = lambda: False,
        checkpoint_interval: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.diverged = False
        """Whether the ranks are stopping because the run has diverged."""
        self.failed = False
        """Whether the ranks are stopping because a rank cannot continue."""
        self.checkpoint_due = False
        """Whether to write a checkpoint after this iteration."""
        self._stop = stop
        self._communicator = communicator
        self._has_diverged = has_diverged
        self._is_time_up = is_time_up
        self._checkpoint_interval = checkpoint_interval
        self._clock = clock
        self._last_checkpoint = clock()
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
            self._check_clocks()
            self.diverged = self.diverged or self._has_diverged()
            self.failed = self.failed or failed
            return self.diverged or self.failed or self._stop.requested
        self._iterations_left -= 1
        if self._agreed or (self._iterations_left > 0 and not now):
            return self._agreed
        if not self._communicator.rank:
            self._check_clocks()
        own = (self._stop.signal or 0, self._has_diverged(), failed, self.checkpoint_due, self._next_interval())
        signal, diverged, failure, due, interval = self._communicator.all_reduce_max([int(value) for value in own])
        self.checkpoint_due = bool(due)
        if signal or diverged or failure:
            self._stop.signal = signal or None
            self.diverged, self.failed = bool(diverged), bool(failure)
            self._agreed = True
        self._interval = self._iterations_left = interval
        self._last_exchange = self._clock()
        return self._agreed

    def checkpoint_written(self) -> None:
        """Start the next interval between checkpoints."""
        self.checkpoint_due = False
        self._last_checkpoint = self._clock()

    def _check_clocks(self) -> None:
        if self._is_time_up():
            self._stop.request("trainer.time_limit")
        self.checkpoint_due = self._clock() - self._last_checkpoint >= self._checkpoint_interval

    def _next_interval(self) -> int:
        """Return rank 0's number of iterations until the next exchange; on other ranks, return 0, which never wins."""
        if self._communicator.rank:
            return 0
        done = max(1, self._interval - self._iterations_left)
        seconds = max(self._clock() - self._last_exchange, 1e-9) / done
        return max(1, min(2 * self._interval, int(EXCHANGE_INTERVAL / seconds)))
