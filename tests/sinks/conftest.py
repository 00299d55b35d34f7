"""For all tests of sinks."""

import contextlib
import gc
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from support.wandb_server import KEY, WandbServer


@pytest.fixture(autouse=True)
def _ends_wandb() -> Iterator[None]:
    """Leave no process of wandb's behind a test, and no warning of one."""
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        for thread in threading.enumerate():
            if thread.name == "NetStatThr":
                # Of a run that was dropped: it would find out seconds later, and complain in another test.
                thread._target.__self__._join_event.set()
                thread.join(10)
        with contextlib.suppress(Exception, SystemExit):
            wandb.teardown()
        with warnings.catch_warnings():
            # wandb does not wait for a process that was killed.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def _sole_wandb_server() -> Iterator[WandbServer]:
    # One for all tests: wandb may keep an address in a process for longer than a test lasts.
    with WandbServer() as server:
        yield server


@pytest.fixture
def wandb_server(_sole_wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server that has no runs and no faults yet, to which the environment leads, with a key."""
    server = _sole_wandb_server
    server.clear()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.fail(None)
