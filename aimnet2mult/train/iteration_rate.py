"""The number of iterations per second."""

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["IterationRate"]


class IterationRate:
    """The iterations per second since a point, without pauses such as validations.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begin = (0, 0.0)
        self._measured = 0.0

    def start(self, iteration: int) -> None:
        """Count from this iteration and the current time."""
        self._begin = (iteration, self._clock())

    def measure(self, iteration: int) -> float:
        """Return the rate until this iteration and the current time."""
        first, begin = self._begin
        self._measured = self._clock()
        return (iteration - first) / max(self._measured - begin, 1e-9)

    def restart(self, iteration: int) -> None:
        """Count from this iteration and the time of the last measurement."""
        self._begin = (iteration, self._measured)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time in the block."""
        start = self._clock()
        yield
        first, begin = self._begin
        self._begin = (first, begin + self._clock() - start)
