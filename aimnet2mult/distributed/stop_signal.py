"""Requests to stop: SIGTERM, Ctrl-C, or a closed terminal."""

import signal
from types import FrameType
from typing import Any, Self

__all__ = ["StopSignal"]


class StopSignal:
    """A context in which SIGTERM, SIGINT and SIGHUP request a stop; a SIGINT after that raises KeyboardInterrupt.

    The training loop checks the request between iterations; `interrupt_at_once` is for the time after it. Enter it in
    the main thread.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that requested the stop, or None."""
        self.interrupted = False
        """Whether KeyboardInterrupt has been raised."""
        self._at_once = False
        self._handlers_before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a stop has been requested."""
        return self.signal is not None

    def interrupt_at_once(self) -> None:
        """Raise KeyboardInterrupt for the next SIGINT even if it is the first."""
        self._at_once = True

    def ignore_interrupts(self) -> None:
        """Ignore SIGINT for the rest of the context."""
        if signal.SIGINT in self._handlers_before:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __enter__(self) -> Self:
        # nohup ignores SIGHUP and a shell ignores SIGINT for background jobs; respect that.
        handled = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._handlers_before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and (self.requested or self._at_once):
            self.interrupted = True
            raise KeyboardInterrupt
        self.signal = number
