"""Ctrl-C while the command is being imported and while the interpreter shuts down."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

__all__ = ["EXIT_INTERRUPTED", "exit_on_interrupt", "exiting_on_interrupt"]

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""


def exit_on_interrupt() -> None:
    """Let SIGINT end the process at once, without a traceback, unless it is ignored as in a background job."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))


@contextlib.contextmanager
def exiting_on_interrupt() -> Iterator[None]:
    """Handle SIGINT as `exit_on_interrupt` does, for the duration of the context."""
    before = signal.getsignal(signal.SIGINT)
    exit_on_interrupt()
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)
