"""Ranks that wait for each other: who is named, what a signal does, and which of them decide."""

import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.distributed.rendezvous import are_all_here, assemble, dismiss, open_store
from aimnet2mult.distributed.stop_signal import Stopped, StopSignal
from aimnet2mult.errors import ConfigError, RankLost
from aimnet2mult.train.startup import dismissing_others, stopping_at_once
from support.ports import free_port

LONG = timedelta(minutes=5)
SHORT = timedelta(milliseconds=50)


@pytest.fixture
def infos() -> list[RankInfo]:
    """Return the ranks of a job of three processes."""
    port = free_port()
    return [RankInfo(rank=rank, world_size=3, local_rank=rank, host="127.0.0.1", port=port) for rank in range(3)]


def fail(line: str) -> None:
    pytest.fail(f"said {line}")


def stopped_by(number: signal.Signals) -> StopSignal:
    stop = StopSignal()
    stop.signal = number
    return stop


def join(
    info: RankInfo,
    stop: StopSignal | None = None,
    *,
    store: Any = None,
    say: Callable[[str], None] = fail,
    timeout: timedelta = LONG,
    notice: float = 60,
) -> Exception | None:
    """Meet the others as this rank, and return how this ended."""
    stop = stop or StopSignal()
    try:
        store = store or open_store(info, stop, say=say, timeout=timeout, notice=notice)
        assemble(store, info, stop, say=say, timeout=timeout, notice=notice)
    except RankLost as error:
        return error
    return None


def test_ranks_that_come_in_any_order_meet_without_a_word(infos: list[RankInfo]) -> None:
    with ThreadPoolExecutor() as pool:
        later = [pool.submit(join, info) for info in infos[1:]]
        first = open_store(infos[0], StopSignal(), say=fail)
        assert join(infos[0], store=first) is None
        assert [rank.result() for rank in later] == [None, None]


def test_a_host_that_does_not_resolve_is_named(infos: list[RankInfo]) -> None:
    nowhere = RankInfo(rank=1, world_size=2, host="no-such-host.invalid", port=infos[0].port)
    said: list[str] = []
    error = join(nowhere, say=said.append, timeout=SHORT, notice=0)
    place = rf"rank 0 at no-such-host.invalid:{nowhere.port} (the name no-such-host.invalid does not resolve; "
    place += "set MASTER_ADDR to an address of that machine)"
    assert said == [f"rank 1 of 2 is waiting for {place}; up to 0 s"]
    assert isinstance(error, RankLost)
    assert str(error) == f"rank 1 of 2 has waited 0 s for {place}"
    assert not error.reported


def test_the_first_rank_names_those_that_are_missing_and_the_others_end_silently(infos: list[RankInfo]) -> None:
    said: list[str] = []
    store = open_store(infos[0], StopSignal(), say=fail)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(join, infos[1])
        error = join(infos[0], store=store, say=said.append, timeout=timedelta(seconds=1), notice=0.5)
        assert said == ["rank 0 of 3 is waiting for rank 2; up to 1 s"]
        assert str(error) == "rank 0 of 3 has waited 1 s for rank 2"
        lost = other.result()
    assert isinstance(lost, RankLost)
    assert lost.reported


def test_the_others_wait_longer_than_the_timeout_while_the_first_rank_checks_the_data(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(join, info, timeout=timedelta(0)) for info in infos[1:]]
        # Both are waiting by then.
        while not are_all_here(store, infos[0]):
            pass
        assert not any(rank.done() for rank in others)
        assert join(infos[0], store=store) is None
        assert [rank.result() for rank in others] == [None, None]


def test_a_signal_to_a_rank_that_waits_ends_all(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    error = join(infos[1], stopped_by(signal.SIGTERM))
    assert isinstance(error, RankLost)
    assert str(error) == "rank 1 of 3 was stopped by SIGTERM while waiting for the other ranks"
    assert error.reported
    first = join(infos[0], store=store)
    assert isinstance(first, RankLost)
    assert not first.reported
    assert str(first) == "another rank was stopped before all ranks had come together"


def test_a_signal_ends_the_wait_for_a_first_rank_that_never_comes(infos: list[RankInfo]) -> None:
    error = join(infos[1], stopped_by(signal.SIGUSR1))
    assert isinstance(error, RankLost)
    place = f"127.0.0.1:{infos[1].port} (Connection refused)"
    assert str(error) == f"rank 1 of 3 was stopped by SIGUSR1 while waiting for rank 0 at {place}"


def test_a_signal_to_the_first_rank_is_a_preemption_once_the_others_are_there(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    assert not are_all_here(store, infos[0])
    for info in infos[1:]:
        assert code_after_signal(infos[0], store) == 1
        store.set(f"joined/{info.rank}", "")
    assert code_after_signal(infos[0], store) == 143


def code_after_signal(info: RankInfo, store: Any) -> object:
    """Return the exit code after a signal during the check of the data."""
    with StopSignal() as stop, pytest.raises(Stopped) as ended, stopping_at_once(stop, info, store):
        signal.raise_signal(signal.SIGTERM)
    return ended.value.code


def test_a_signal_after_the_decision_to_start_does_not_separate_the_ranks(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    store.compare_set("decision", "", "start")
    # The training that begins will agree on the stop.
    assert join(infos[1], stopped_by(signal.SIGTERM)) is None


def test_the_end_of_the_first_rank_ends_the_others(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(join, info) for info in infos[1:]]
        while not are_all_here(store, infos[0]):
            pass
        del store
        for rank in others:
            error = rank.result()
            assert isinstance(error, RankLost)
            assert error.reported


def test_ranks_that_come_after_an_error_of_the_first_rank_end_silently(infos: list[RankInfo]) -> None:
    stop = StopSignal()
    store = open_store(infos[0], stop, say=fail)

    def first_rank() -> None:
        with dismissing_others(store, infos[0], stop):
            raise ConfigError("there is no such setting")

    with ThreadPoolExecutor() as pool:
        first = pool.submit(first_rank)
        for info in infos[1:]:
            assert not first.done()
            lost = join(info)
            assert isinstance(lost, RankLost)
            assert lost.reported
        with pytest.raises(ConfigError, match="no such setting"):
            first.result()


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_failed_first_rank_does_not_wait_long_for_ranks_that_never_come(
    infos: list[RankInfo], number: signal.Signals | None
) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    dismiss(store, infos[0], stopped_by(number) if number else StopSignal(), timeout=LONG if number else SHORT)
    assert not are_all_here(store, infos[0])


def test_an_error_after_the_decision_to_start_needs_no_dismissal(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    store.compare_set("decision", "", "start")
    dismiss(store, infos[0], StopSignal(), timeout=LONG)
    assert store.get("decision") == b"start"


def test_an_error_of_another_rank_ends_the_wait_of_the_first(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    dismiss(open_store(infos[1], StopSignal(), say=fail), infos[1], StopSignal())
    assert isinstance(join(infos[0], store=store), RankLost)


def test_a_port_in_use_is_named(infos: list[RankInfo]) -> None:
    held = open_store(infos[0], StopSignal(), say=fail)
    with pytest.raises(RankLost, match=rf"rank 0 cannot use port {infos[0].port} of its machine, .* MASTER_PORT"):
        open_store(infos[0], StopSignal(), say=fail)
    del held


def test_a_server_that_does_not_answer_ends_the_wait_after_the_timeout(infos: list[RankInfo]) -> None:
    with socket.create_server(("127.0.0.1", infos[1].port)):
        error = join(infos[1], timeout=SHORT)
    assert isinstance(error, RankLost)
    assert str(error).startswith("rank 1 of 3 has waited 0 s for rank 0 at 127.0.0.1:")
    assert str(error).endswith("(the server does not answer; another program may use the port)")


def test_ranks_of_another_training_on_the_port_are_not_taken_for_those_of_this_one(infos: list[RankInfo]) -> None:
    store = open_store(infos[0], StopSignal(), say=fail)
    error = join(replace(infos[1], job="4711.2"), timeout=SHORT)
    assert isinstance(error, RankLost)
    assert str(error).endswith("(another training uses the port)")
    assert not store.check(["joined/1"])
