"""When a failing delivery is retried, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.telemetry_fakes import FakeClock
from telemetry.backoff import Backoff
from telemetry.delivery.retries import Retries


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def retries(clock: FakeClock, linger: float = 10.0, jitter: Callable[[], float] = lambda: 1.0) -> Retries:
    return Retries(linger, clock=clock, jitter=jitter)


def test_delays_double_from_one_second_to_one_minute_without_a_limit(clock: FakeClock) -> None:
    tries = retries(clock)
    delays = [tries.next_delay(limited=False) for _ in range(9)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_the_delays_can_be_chosen(clock: FakeClock) -> None:
    tries = Retries(10.0, clock=clock, jitter=lambda: 1.0, backoff=Backoff(0.1, 0.2))
    assert [tries.next_delay(limited=False) for _ in range(3)] == [0.1, 0.2, 0.2]


@pytest.mark.parametrize(("random", "first"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter_shortens_a_delay_by_up_to_half(clock: FakeClock, random: float, first: float) -> None:
    assert retries(clock, jitter=lambda: random).next_delay(limited=False) == first


def test_limited_retries_end_after_linger(clock: FakeClock) -> None:
    tries = retries(clock, linger=10.0)
    delays = []
    while (delay := tries.next_delay(limited=True)) is not None:
        delays.append(delay)
        clock.sleep(delay)
    assert delays == [1.0, 2.0, 4.0, 3.0]
    assert tries.is_failing


def test_linger_is_counted_from_the_first_limited_failure(clock: FakeClock) -> None:
    tries = retries(clock, linger=10.0)
    tries.next_delay(limited=False)
    clock.sleep(1000.0)
    assert tries.next_delay(limited=True) == 2.0
    clock.sleep(10.0)
    assert tries.next_delay(limited=True) is None


def test_a_reset_restores_the_initial_delay_and_the_full_linger(clock: FakeClock) -> None:
    tries = retries(clock, linger=10.0)
    assert tries.next_delay(limited=True) == 1.0
    assert tries.is_failing
    clock.sleep(9.0)
    tries.reset()
    assert not tries.is_failing
    assert tries.next_delay(limited=True) == 1.0
    clock.sleep(9.0)
    assert tries.next_delay(limited=True) == 1.0
