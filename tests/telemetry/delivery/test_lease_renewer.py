"""The lease of a delivery is renewed from a separate thread."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from support.telemetry_fakes import eventually
from telemetry.delivery.lease_renewer import LeaseRenewer
from telemetry.run_folder.lease import Lease


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    lease = Lease(tmp_path, "sink")
    assert lease.try_acquire()
    return lease


def renewals(folder: Path) -> int:
    return int(json.loads((folder / "sink.lease-1").read_bytes())["beat"])


def test_the_lease_is_renewed_while_the_block_runs(lease: Lease, tmp_path: Path) -> None:
    with LeaseRenewer(lease, interval=0.02):
        eventually(lambda: renewals(tmp_path) >= 3)
    at_the_end = renewals(tmp_path)
    threading.Event().wait(0.1)
    assert renewals(tmp_path) == at_the_end


def test_renewal_continues_after_an_error_of_the_disk(tmp_path: Path) -> None:
    tries: list[int] = []

    class FlakyLease(Lease):
        def renew(self) -> bool:
            tries.append(1)
            if len(tries) < 4:
                raise OSError(28, "No space left on device")
            return super().renew()

    lease = FlakyLease(tmp_path, "sink")
    assert lease.try_acquire()
    with LeaseRenewer(lease, interval=0.02):
        eventually(lambda: renewals(tmp_path) >= 1)
