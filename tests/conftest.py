"""Process-wide settings for all tests."""

import os
import signal
from pathlib import Path

# A shell that runs the tests in the background ignores SIGINT, and every process started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings of tests name classes of these packages.
os.environ["AIMNET2MULT_ALLOW_PACKAGE"] = "support tests"

# Processes started by tests import the package `support` as the tests do.
_inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "lib"), *_inherited])
