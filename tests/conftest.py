"""Process-wide settings for all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry import redaction

# A shell that runs the tests in the background ignores SIGINT, and every process started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes started by tests import the package `support` as the tests do.
_inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "lib"), *_inherited])


@pytest.fixture(autouse=True)
def _forget_credentials() -> Iterator[None]:
    """Keep the passwords of the sinks of one test out of the redaction in the next."""
    yield
    redaction._remembered.clear()
