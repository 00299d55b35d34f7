"""The share of the time that training waits for data."""

from collections.abc import Iterator
from typing import Any, cast

from aimnet2mult.train.loaders import Loader
from aimnet2mult.train.timed_loader import TimedLoader
from support.telemetry_fakes import FakeClock


class SlowLoader:
    """Two batches, for each of which it takes three seconds."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        for number in range(2):
            self._clock.now += 3
            yield number


def test_the_percentage_covers_the_time_since_the_last_call() -> None:
    clock = FakeClock()
    loader = TimedLoader(cast("Loader", SlowLoader(clock)), clock)
    assert len(loader) == 2
    shares = []
    for _ in loader:
        clock.now += 1
        shares.append(loader.percentage())
    clock.now += 1
    assert [*shares, loader.percentage()] == [75, 75, 0]


def test_a_wait_in_progress_counts() -> None:
    clock = FakeClock()
    shares: list[float] = []

    class StuckLoader(SlowLoader):
        def __iter__(self) -> Iterator[Any]:
            clock.now += 5
            shares.append(loader.percentage())
            clock.now += 5
            yield 0

    loader = TimedLoader(cast("Loader", StuckLoader(clock)), clock)
    (_,) = loader
    assert [*shares, loader.percentage()] == [100, 100]
