"""How all ranks stop at the same iteration, soon after one of them was asked to, or has seen the training diverge."""

import time
from collections.abc import Callable

from aimnet2mult.distributed.rank_info import Communicator
from aimnet2mult.distributed.stop_signal import StopSignal

__all__ = ["StopConsensus"]

SECONDS = 0.5
"""What lies between two looks at each other, about: a stop then takes less than two seconds and an iteration."""


class StopConsensus:
    """Whether all ranks know that one of them is to stop.

    They look at each other every few iterations. How many is the same on all: rank 0 takes it from its own pace,
    doubling it at most, and it travels with each look. Alone, there is nothing to agree on.

    Args:
        stop: the wish to stop of this rank.
        ranks: all of them.
        has_diverged: says that the training is to end because it has diverged.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        stop: StopSignal,
        ranks: Communicator,
        *,
        has_diverged: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.diverged = False
        """Whether all stop because the training has diverged."""
        self._stop = stop
        self._ranks = ranks
        self._has_diverged = has_diverged
        self._clock = clock
        self._agreed = False
        self.reset_interval()

    def reset_interval(self) -> None:
        """Look at the next iteration again: those that come now may be slower than those before."""
        self._interval = self._left = 1
        self._since = self._clock()

    def should_stop(self, *, now: bool = False) -> bool:
        """Say, after an iteration of any kind, whether all stop here; ``now`` looks in any case.

        Called on all ranks alike. From then on the stop has the same signal on each.
        """
        if self._ranks.world == 1:
            self.diverged = self.diverged or self._has_diverged()
            return self.diverged or self._stop.requested
        self._left -= 1
        if self._agreed or (self._left > 0 and not now):
            return self._agreed
        signal, diverged, interval = self._ranks.all_reduce_max(
            [self._stop.signal or 0, int(self._has_diverged()), self._next_interval()]
        )
        if signal or diverged:
            self._stop.signal = signal or None
            self.diverged = bool(diverged)
            self._agreed = True
        self._interval = self._left = interval
        self._since = self._clock()
        return self._agreed

    def _next_interval(self) -> int:
        if self._ranks.rank:
            return 0
        done = max(1, self._interval - self._left)
        seconds = max(self._clock() - self._since, 1e-9) / done
        return max(1, min(2 * self._interval, int(SECONDS / seconds)))
