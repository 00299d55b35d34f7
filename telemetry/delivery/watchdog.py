"""The thread that keeps a delivery's lease, and notices a hook that does not return."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from telemetry.run_folder.lease import RENEWAL_INTERVAL, Lease


class Keeper:
    """Renew a lease, and watch the hooks, as long as a delivery runs. A context manager.

    Args:
        lease: renewed every ``RENEWAL_INTERVAL`` seconds.
        hook_timeout: seconds that a hook may take.
        on_hang: called once, in the keeper's thread, for a hook that takes longer.
    """

    def __init__(self, lease: Lease, hook_timeout: float, on_hang: Callable[[], None]) -> None:
        self._lease = lease
        self._hook_timeout = hook_timeout
        self._on_hang = on_hang
        self._entered: float | None = None
        self._told = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-keeper", daemon=True)

    @contextlib.contextmanager
    def hook(self) -> Iterator[None]:
        """Watch the time that is spent inside."""
        self._entered = time.monotonic()
        try:
            yield
        finally:
            self._entered = None

    def __enter__(self) -> Keeper:
        """Start keeping."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End keeping."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        tick = min(RENEWAL_INTERVAL, self._hook_timeout / 2)
        renewed = time.monotonic()
        while not self._done.wait(tick):
            now = time.monotonic()
            if now - renewed >= RENEWAL_INTERVAL:
                renewed = now
                self._renew()
            entered = self._entered
            if not self._told and entered is not None and now - entered >= self._hook_timeout:
                self._told = True
                self._on_hang()

    def _renew(self) -> None:
        try:
            self._lease.renew()
        except OSError:
            # A lease that cannot be renewed is taken over in the end, and the delivery then sees that it is lost.
            return
