"""A signal requests a stop; a second Ctrl-C interrupts at once."""

import signal

import pytest

from aimnet2mult.distributed.stop_signal import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_requests_a_stop(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert stop.signal == number


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_raises(first: signal.Signals) -> None:
    with StopSignal() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == first


def test_a_second_sigterm_does_not_raise() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested


def test_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in StopSignal.SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in StopSignal.SIGNALS] != before
    assert [signal.getsignal(number) for number in StopSignal.SIGNALS] == before


def test_after_the_training_the_first_ctrl_c_raises_and_further_ones_can_be_ignored() -> None:
    with StopSignal() as stop:
        stop.interrupt_at_once()
        signal.raise_signal(signal.SIGTERM)
        assert not stop.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.interrupted
        stop.ignore_interrupts()
        signal.raise_signal(signal.SIGINT)
