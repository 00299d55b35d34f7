"""Signals before the command handles them and while the interpreter shuts down."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from aimnet2mult.distributed.stop_signal import PREEMPTIONS

__all__ = ["EXIT_INTERRUPTED", "conclude", "exit_on_signals", "exiting_on_signals"]

EXIT_INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
EXIT_PREEMPTED = 128 + signal.SIGTERM
"""Exit code after any of `PREEMPTIONS`; batch scripts requeue the job."""
EXIT_NOT_MET = 1
"""Exit code after any of `PREEMPTIONS` in one of several processes: the ranks have not met yet."""


def exit_on_signals(clean_up: Callable[[], object] = lambda: None) -> None:
    """Let SIGINT and the signals of batch systems end the process at once, with the exit codes of the training.

    Args:
        clean_up: Called in the handler of the signal, before the process ends.
    """
    _exit_on_interrupt(clean_up)
    code = EXIT_PREEMPTED if _is_alone() else EXIT_NOT_MET
    _handle_preemptions(lambda *_: _exit(code, clean_up))


def conclude() -> None:
    """Let SIGINT end the process at once, and ignore the signals of batch systems: the exit code is certain."""
    _exit_on_interrupt()
    _handle_preemptions(signal.SIG_IGN)


@contextlib.contextmanager
def exiting_on_signals(clean_up: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Handle signals as `exit_on_signals` does, for the duration of the context."""
    before = {number: signal.getsignal(number) for number in (*PREEMPTIONS, signal.SIGINT)}
    exit_on_signals(clean_up)
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _exit_on_interrupt(clean_up: Callable[[], object] = lambda: None) -> None:
    # SIGINT is ignored in a background job.
    if _in_main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: _exit(EXIT_INTERRUPTED, clean_up))


def _exit(code: int, clean_up: Callable[[], object]) -> None:
    try:
        clean_up()
    finally:
        os._exit(code)


def _handle_preemptions(handler: Any) -> None:
    if _in_main_thread():
        for number in PREEMPTIONS:
            signal.signal(number, handler)


def _is_alone() -> bool:
    # As in distributed.rank_info, whose imports take too long for a signal to wait.
    return (os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1") == "1"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
