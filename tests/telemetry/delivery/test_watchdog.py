"""The keeper of a delivery: renews its lease, and tells of a hook that does not return."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from support.telemetry_fakes import eventually
from telemetry.delivery.watchdog import Keeper
from telemetry.run_folder.lease import Lease


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    lease = Lease(tmp_path, "sink")
    assert lease.try_acquire()
    return lease


@pytest.fixture
def told() -> list[str]:
    return []


def beat(folder: Path) -> int:
    return int(json.loads((folder / "sink.lease-1").read_bytes())["beat"])


def test_a_hook_that_does_not_return_is_told_of_once_from_another_thread(lease: Lease, told: list[str]) -> None:
    with Keeper(lease, 0.05, lambda: told.append(threading.current_thread().name)) as keeper, keeper.hook():
        eventually(lambda: told)
        threading.Event().wait(0.3)
    assert told == ["telemetry-keeper"]


def test_neither_a_hook_that_returns_in_time_nor_the_time_between_two_is_told_of(lease: Lease, told: list[str]) -> None:
    with Keeper(lease, 0.2, lambda: told.append("hung")) as keeper:
        with keeper.hook():
            pass
        threading.Event().wait(0.5)
        with keeper.hook():
            pass
    assert told == []


def test_a_hook_that_raises_has_returned(lease: Lease, told: list[str]) -> None:
    with Keeper(lease, 0.1, lambda: told.append("hung")) as keeper:
        with pytest.raises(RuntimeError), keeper.hook():
            raise RuntimeError
        threading.Event().wait(0.3)
    assert told == []


def test_the_lease_is_renewed_also_while_a_hook_runs(
    lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.delivery.watchdog.RENEWAL_INTERVAL", 0.02)
    with Keeper(lease, 30.0, lambda: None) as keeper, keeper.hook():
        eventually(lambda: beat(tmp_path) >= 3)


def test_a_disk_that_fails_does_not_end_the_keeper(
    lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.delivery.watchdog.RENEWAL_INTERVAL", 0.02)
    tries: list[int] = []
    renew = lease.renew

    def fail_at_first() -> bool:
        tries.append(1)
        if len(tries) < 4:
            raise OSError(28, "No space left on device")
        return renew()

    monkeypatch.setattr(lease, "renew", fail_at_first)
    with Keeper(lease, 30.0, lambda: None):
        eventually(lambda: beat(tmp_path) >= 1)
