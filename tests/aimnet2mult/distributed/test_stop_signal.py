"""A signal asks for an end; a second Ctrl-C does not wait for it."""

import signal

import pytest

from aimnet2mult.distributed.stop_signal import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_sets_the_wish(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert stop.signal == number


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_ctrl_c_after_that_raises(first: signal.Signals) -> None:
    with StopSignal() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == first


def test_a_second_sigterm_is_patient() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested


def test_former_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in StopSignal.SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in StopSignal.SIGNALS] != before
    assert [signal.getsignal(number) for number in StopSignal.SIGNALS] == before
