"""Ranks stop at the same iteration, and exchange no more often than necessary."""

import signal
import threading
from collections.abc import Sequence

import pytest

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.distributed.stop_signal import StopSignal


class Meeting:
    """An exchange of the maxima of values between ranks that are threads."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.exchanges = 0
        self._barrier = threading.Barrier(world, timeout=30)
        self._values: list[list[int]] = [[] for _ in range(world)]

    def all_reduce_max(self, rank: int, values: Sequence[int]) -> list[int]:
        self._values[rank] = list(values)
        self._barrier.wait()
        found = [max(column) for column in zip(*self._values, strict=True)]
        self.exchanges += rank == 0
        self._barrier.wait()
        return found


class Rank(Communicator):
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.rank, self.world_size, self._meeting = rank, meeting.world, meeting

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        return self._meeting.all_reduce_max(self.rank, values)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def train(
    meeting: Meeting, rank: int, seconds: Sequence[float], asked: tuple[int, int], stops: list[tuple[int, int | None]]
) -> None:
    """Run iterations of given durations; rank ``asked[0]`` gets a signal in iteration ``asked[1]``."""
    stop, clock = StopSignal(), Clock()
    consensus = StopConsensus(stop, Rank(meeting, rank), clock=clock)
    for iteration, duration in enumerate(seconds, start=1):
        # The clocks of the other ranks do not matter.
        clock.now += duration if rank == 0 else 100.0
        if asked == (rank, iteration):
            stop.signal = signal.SIGTERM
        if consensus.should_stop():
            break
    stops[rank] = iteration, stop.signal


def run(world: int, seconds: Sequence[float], asked: tuple[int, int]) -> tuple[list[tuple[int, int | None]], int]:
    meeting, stops = Meeting(world), [(0, None)] * world
    threads = [threading.Thread(target=train, args=(meeting, rank, seconds, asked, stops)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return stops, meeting.exchanges


@pytest.mark.parametrize("asked", [(0, 1), (0, 500), (2, 333)])
def test_all_ranks_stop_at_the_same_iteration_within_two_seconds(asked: tuple[int, int]) -> None:
    pace = 0.005
    stops, exchanges = run(3, [pace] * 2000, asked)
    assert len(set(stops)) == 1
    iteration, number = stops[0]
    assert number == signal.SIGTERM
    assert 0 <= (iteration - asked[1]) * pace < 2
    assert exchanges <= 10 + iteration * pace / 0.4


def test_the_interval_adapts_to_slower_iterations() -> None:
    stops, _ = run(2, [0.01] * 200 + [1.0] * 200, (1, 300))
    assert stops[0] == stops[1]
    assert stops[0][0] <= 301


def test_without_a_request_no_rank_stops() -> None:
    stops, exchanges = run(2, [0.001] * 1000, (5, 0))
    assert stops == [(1000, None)] * 2
    assert exchanges < 15


def test_an_exchange_can_be_forced_and_resetting_the_interval_starts_with_one() -> None:
    clock, asked = Clock(), []

    class Watched(Communicator):
        world_size = 2

        def all_reduce_max(self, values: Sequence[int]) -> list[int]:
            asked.append(values)
            return list(values)

    consensus = StopConsensus(StopSignal(), Watched(), clock=clock)

    def exchanges_in(iterations: int) -> list[int]:
        found = []
        for iteration in range(iterations):
            clock.now += 0.001
            before = len(asked)
            consensus.should_stop()
            found += [iteration] if len(asked) > before else []
        return found

    assert exchanges_in(20) == [0, 2, 6, 14]
    before = len(asked)
    consensus.should_stop(now=True)
    assert len(asked) == before + 1
    consensus.reset_interval()
    assert exchanges_in(8) == [0, 2, 6]


def test_a_single_rank_stops_on_request() -> None:
    stop = StopSignal()
    consensus = StopConsensus(stop, Communicator())
    assert not consensus.should_stop()
    stop.signal = signal.SIGTERM
    assert consensus.should_stop()
