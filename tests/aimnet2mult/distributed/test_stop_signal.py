"""A signal requests a stop; a second Ctrl-C interrupts at once."""

import contextlib
import io
import signal
import sys

import pytest

from aimnet2mult.distributed.stop_signal import Stopped, StopSignal


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGUSR1, 143),
        (signal.SIGUSR2, 143),
        (signal.SIGINT, 130),
        (signal.SIGHUP, 129),
    ],
)
def test_a_signal_only_requests_a_stop(number: signal.Signals, code: int) -> None:
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert (stop.signal, stop.name, stop.exit_code) == (number, number.name, code)


def test_before_the_training_a_signal_ends_the_process() -> None:
    with StopSignal() as stop:
        with pytest.raises(Stopped) as ended, stop.stopping_at_once():
            signal.raise_signal(signal.SIGUSR1)
        assert ended.value.code == 143
        with pytest.raises(Stopped), stop.stopping_at_once():
            pytest.fail("the request was forgotten")


def test_a_stop_whose_exception_a_library_has_lost_still_ends_the_process() -> None:
    with StopSignal() as stop, pytest.raises(Stopped), stop.stopping_at_once(), contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def test_before_the_training_ctrl_c_raises() -> None:
    with StopSignal() as stop, pytest.raises(KeyboardInterrupt), stop.stopping_at_once():
        signal.raise_signal(signal.SIGINT)


def test_signals_are_handled_even_if_the_batch_script_ignores_them() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_raises(first: signal.Signals) -> None:
    with StopSignal() as stop:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == first


def test_a_request_is_acknowledged_once_and_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignal() as stop:
        stop.notice = "stopping soon"
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == "SIGINT: stopping soon\n"


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_without_a_terminal_a_request_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with StopSignal() as stop:
        stop.notice = "stopping soon"
        signal.raise_signal(signal.SIGINT)
        assert stop.requested


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


def test_after_the_training_a_signal_hastens_the_end_and_ctrl_c_raises_once() -> None:
    hastened: list[bool] = []
    with StopSignal() as stop:
        stop.end_training(lambda: hastened.append(True))
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        assert hastened == [True, True]
        # The exit code is that of the training.
        assert not stop.requested
        assert not stop.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.interrupted
        stop.ignore_interrupts()
        signal.raise_signal(signal.SIGINT)
