"""Fixtures for the tests of all sinks."""

import contextlib
import gc
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from support.wandb_server import KEY, WandbServer


@pytest.fixture(autouse=True)
def _stop_wandb() -> Iterator[None]:
    """Stop wandb's processes and threads after each test, without warnings in later tests."""
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        for thread in threading.enumerate():
            if thread.name == "NetStatThr":
                # It belongs to an unfinished run, and would raise an error seconds later, in another test.
                thread._target.__self__._join_event.set()
                thread.join(10)
        with contextlib.suppress(Exception, SystemExit):
            wandb.teardown()
        with warnings.catch_warnings():
            # wandb does not wait for killed processes.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def _shared_wandb_server() -> Iterator[WandbServer]:
    # One for all tests, because wandb may keep its address beyond a test.
    with WandbServer() as server:
        yield server


@pytest.fixture
def wandb_server(_shared_wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """Return an empty W&B server; environment variables hold its URL and a key."""
    server = _shared_wandb_server
    server.clear()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.fail(None)
