"""How long the training waits for data."""

import time
from collections.abc import Callable, Iterator

from aimnet2mult.train.engine import Batch
from aimnet2mult.train.loaders import Loader

__all__ = ["TimedLoader"]


class TimedLoader:
    """A loader that measures the time spent waiting for its batches.

    Args:
        loader: the loader.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, loader: Loader, clock: Callable[[], float] = time.monotonic) -> None:
        self._loader = loader
        self._clock = clock
        self._waited = 0.0
        self._since: float | None = None
        self._last = (clock(), 0.0)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        clock, batches = self._clock, iter(self._loader)
        while True:
            self._since = since = clock()
            batch = next(batches, None)
            self._since = None
            self._waited += clock() - since
            if batch is None:
                return
            yield batch

    def percentage(self) -> float:
        """Return the percentage of the time since the last call in which the training waited; for another thread."""
        since, now = self._since, self._clock()
        waited = self._waited + (0.0 if since is None else now - since)
        (before, waited_before), self._last = self._last, (now, waited)
        # The two readings above may fall into different batches.
        return min(max(100 * (waited - waited_before) / (now - before), 0.0), 100.0) if now > before else 0.0
