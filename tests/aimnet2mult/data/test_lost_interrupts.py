"""Signals end a check of data also if they come while h5py destroys an object."""

import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aimnet2mult.data.lost_interrupts import raising_lost_interrupts


class Thing:
    """Something that h5py would refer to weakly."""


@contextmanager
def handling(error: type[BaseException]) -> Iterator[None]:
    def handle(*_: object) -> None:
        raise error(143)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def signal_in_a_callback() -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGUSR1))
    del thing
    assert reference() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_exception_of_a_signal_in_a_destructor_is_raised_at_the_end(
    error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = []

    def work() -> None:
        with raising_lost_interrupts():
            signal_in_a_callback()
            steps.append("after the signal")

    with handling(error), pytest.raises(error, match="143"):
        work()
    assert steps == ["after the signal"]
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_errors_in_destructors_are_ignored_as_always() -> None:
    with handling(ValueError), raising_lost_interrupts():
        signal_in_a_callback()
