"""Process-wide settings for all tests, selection of the suites with a marker, and a summary of their figures."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetry import redaction

# A shell that runs the tests in the background ignores SIGINT, and nohup SIGHUP; every process started from here would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Settings of tests name classes of these packages.
os.environ["AIMNET2MULT_ALLOW_PACKAGE"] = "support tests"

# Processes started by tests import the package `support` as the tests do.
_inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "lib"), *_inherited])

FIGURES = pytest.StashKey[list[str]]()
SUITES = ("chaos", "slurm")
"""Markers of tests that run only if the marker is named."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the device of the tests marked `gpu`."""
    parser.addoption(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="where tests marked gpu run: on CUDA, or on the CPU as a rehearsal",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long suites that are not selected with ``-m``, and skip tests that need a GPU if there is none."""
    unnamed = [suite for suite in SUITES if suite not in config.getoption("-m")]
    deselected = [item for item in items if any(item.get_closest_marker(suite) for suite in unnamed)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and config.getoption("--device") == "cuda" and not _has_gpu():
        skip = pytest.mark.skip(reason="needs a CUDA device; --device=cpu rehearses it on the CPU")
        for item in on_gpu:
            item.add_marker(skip)


def _has_gpu() -> bool:
    # The tests of the core run without torch, and none of them has the marker.
    import torch

    return torch.cuda.is_available()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the figures of each scenario, one per line."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Record a line of figures for the summary."""
    lines = request.config.stash.setdefault(FIGURES, [])

    def record(line: object) -> None:
        name = request.node.name.removeprefix("test_").replace("_", " ")
        lines.append(f"{name}: {line}")

    return record


@pytest.fixture(autouse=True)
def _forget_credentials() -> Iterator[None]:
    """Keep the passwords of the sinks of one test out of the redaction in the next."""
    yield
    redaction._remembered.clear()
