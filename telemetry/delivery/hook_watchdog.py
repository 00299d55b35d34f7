"""Detect hooks that do not return."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

MAX_CHECK_INTERVAL = 10.0
"""Maximum interval between checks, in seconds; half the timeout if that is shorter."""


class HookWatchdog:
    """A watchdog that calls ``on_hang`` if a hook takes too long. A context manager: its thread runs during the block.

    Args:
        timeout: maximum duration of a hook, in seconds.
        on_hang: function called once, in the watchdog's thread, when a hook exceeds the timeout.
    """

    def __init__(self, timeout: float, on_hang: Callable[[], None]) -> None:
        self._timeout = timeout
        self._on_hang = on_hang
        self._entered: float | None = None
        self._allowed = timeout
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-watchdog", daemon=True)

    @contextlib.contextmanager
    def hook(self, timeouts: float = 1.0) -> Iterator[None]:
        """Apply the timeout to the block, or a multiple of it."""
        self._allowed = timeouts * self._timeout
        self._entered = time.monotonic()
        try:
            yield
        finally:
            self._entered = None

    def __enter__(self) -> HookWatchdog:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(min(MAX_CHECK_INTERVAL, self._timeout / 2)):
            entered = self._entered
            if entered is not None and time.monotonic() - entered >= self._allowed:
                self._on_hang()
                return
