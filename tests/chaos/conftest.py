"""The chaos suite: shared fixtures, selection of scenarios, and a summary of their figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chaos.backends import Backend
from support.chaos.run import ChaosRun
from support.telemetry_fakes import offer_sinks

FIGURES = pytest.StashKey[list[str]]()
SITE = """
from support.chaos import faults
faults.arm()
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long scenarios unless ``-m chaos`` is given."""
    if "chaos" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("chaos")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the figures of each scenario, one per line."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures of the chaos suite")
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


@pytest.fixture(scope="session")
def count() -> int:
    """Number of kills in the large scenarios (CHAOS_N, default 1000); the others scale with it."""
    return int(os.environ.get("CHAOS_N", "1000"))


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the recording sink and the fault injection for all processes."""
    site = tmp_path / "site"
    offer_sinks(site, file="support.telemetry_fakes:FileSink", other="support.telemetry_fakes:FileSink")
    (site / "sitecustomize.py").write_text(SITE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def chaos_run(tmp_path: Path) -> Iterator[Callable[..., ChaosRun]]:
    """Return a function that creates runs; their remaining processes are killed at the end."""
    runs: list[ChaosRun] = []

    def make(*sinks: Backend, **options: Any) -> ChaosRun:
        runs.append(ChaosRun(tmp_path / f"chaos-{len(runs)}", sinks, **options))
        return runs[-1]

    yield make
    for run in runs:
        run.end()
