"""Keep the lease of a delivery from expiring."""

from __future__ import annotations

import contextlib
import threading

from telemetry.run_folder.lease import RENEWAL_INTERVAL, Lease


class LeaseRenewer:
    """A thread that renews a lease, so that it is not lost during a slow hook. A context manager.

    Args:
        lease: a lease held by this process.
        interval: interval between renewals, in seconds.
    """

    def __init__(self, lease: Lease, *, interval: float = RENEWAL_INTERVAL) -> None:
        self._lease = lease
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-lease-renewer", daemon=True)

    def __enter__(self) -> LeaseRenewer:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread; no renewal follows."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._interval):
            # A lease that cannot be renewed expires and is taken over; the delivery loop notices the loss.
            with contextlib.suppress(OSError):
                self._lease.renew()
