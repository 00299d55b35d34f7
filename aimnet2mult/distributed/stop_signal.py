"""Requests to stop: SIGTERM, SIGUSR1, SIGUSR2, Ctrl-C, or a closed terminal."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

__all__ = ["PREEMPTIONS", "StopSignal", "Stopped"]

PREEMPTIONS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals of batch systems before they end a job. All of them give the exit code of SIGTERM."""


class Stopped(SystemExit):
    """A signal ends the process before there is anything to save; the code is its exit code."""


class StopSignal:
    """A context in which signals request a stop; a SIGINT after that raises KeyboardInterrupt.

    The training loop checks the request between iterations; `stopping_at_once` is for the time before it, and
    `end_training` for the time after it. Enter it in the main thread.
    """

    SIGNALS = (*PREEMPTIONS, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that requested the stop, or None."""
        self.reason = ""
        """What requested the stop if it was not a signal, or ""."""
        self.started = time.time()
        """The Unix time at which the training was started."""
        self.notice = ""
        """The line to print when a stop is requested, because the training may take a while to get there."""
        self.interrupted = False
        """Whether KeyboardInterrupt has been raised."""
        self._at_once = False
        self._hasten: Callable[[], None] | None = None
        self._handlers_before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a stop has been requested."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code after the requested stop: 128 plus the signal, and 143 for each of `PREEMPTIONS`."""
        return 128 + (signal.SIGTERM if self.signal in PREEMPTIONS else self.signal or 0)

    @property
    def name(self) -> str:
        """The name of what requested the stop."""
        if self.reason:
            return self.reason
        return signal.Signals(self.signal).name if self.signal else "a signal"

    def request(self, reason: str) -> None:
        """Request a stop as if by SIGTERM, unless one has been requested already."""
        if not self.requested:
            self.signal, self.reason = signal.SIGTERM, reason
            if self.notice:
                _print_notice(f"{reason}: {self.notice}")

    @contextlib.contextmanager
    def stopping_at_once(self) -> Iterator[None]:
        """Let signals raise `Stopped`, and SIGINT KeyboardInterrupt, in the block.

        Raises:
            Stopped: a stop was requested before, or its exception was lost in a library.
        """
        self._at_once = True
        try:
            self.raise_if_requested()
            yield
            self.raise_if_requested()
        finally:
            self._at_once = False

    def raise_if_requested(self) -> None:
        """End the process if a stop has been requested.

        Raises:
            Stopped: it has.
        """
        if self.requested:
            raise Stopped(self.exit_code)

    def end_training(self, hasten: Callable[[], None]) -> None:
        """From now on, let SIGINT raise KeyboardInterrupt even if it is the first, and other signals call ``hasten``.

        They are no longer requests: how the training has ended is certain.
        """
        self._hasten = hasten

    def ignore_interrupts(self) -> None:
        """Ignore SIGINT for the rest of the context."""
        if signal.SIGINT in self._handlers_before:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __enter__(self) -> Self:
        # nohup ignores SIGHUP and a shell ignores SIGINT for background jobs; respect that. A batch script that ignores
        # SIGTERM, however, does so to outlive this process.
        handled = [n for n in self.SIGNALS if n in PREEMPTIONS or signal.getsignal(n) != signal.SIG_IGN]
        self._handlers_before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and (self.requested or self._at_once or self._hasten is not None):
            self.interrupted = True
            if self._at_once:
                self.signal = number
            raise KeyboardInterrupt
        if self._hasten is not None:
            self._hasten()
            return
        if self.notice and not self.requested:
            _print_notice(f"{signal.Signals(number).name}: {self.notice}")
        self.signal = number
        if self._at_once:
            raise Stopped(self.exit_code)


def _print_notice(line: str) -> None:
    """Print a line as is necessary in a signal handler, where the buffers and locks of streams may be in use."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        os.write(sys.stderr.fileno(), f"{start}{line}\n".encode())
