"""The watchdog of a delivery reports a hook that does not return."""

from __future__ import annotations

import threading

import pytest

from support.telemetry_fakes import eventually
from telemetry.delivery.hook_watchdog import HookWatchdog


@pytest.fixture
def reports() -> list[str]:
    """The threads from which a hang was reported."""
    return []


def watchdog(timeout: float, reports: list[str]) -> HookWatchdog:
    return HookWatchdog(timeout, lambda: reports.append(threading.current_thread().name))


def test_a_hook_that_does_not_return_is_reported_once_from_another_thread(reports: list[str]) -> None:
    with watchdog(0.05, reports) as dog, dog.hook():
        eventually(lambda: reports)
        threading.Event().wait(0.3)
    assert reports == ["telemetry-watchdog"]


def test_neither_a_hook_that_returns_in_time_nor_the_time_between_hooks_is_reported(reports: list[str]) -> None:
    with watchdog(0.2, reports) as dog:
        with dog.hook():
            pass
        threading.Event().wait(0.5)
        with dog.hook():
            pass
    assert reports == []


def test_a_hook_may_have_a_multiple_of_the_time(reports: list[str]) -> None:
    with watchdog(0.05, reports) as dog:
        with dog.hook(timeouts=100):
            threading.Event().wait(0.3)
        assert reports == []
        with dog.hook():
            assert eventually(lambda: reports)


def test_a_hook_that_raises_has_returned(reports: list[str]) -> None:
    with watchdog(0.1, reports) as dog:
        with pytest.raises(RuntimeError), dog.hook():
            raise RuntimeError
        threading.Event().wait(0.3)
    assert reports == []
