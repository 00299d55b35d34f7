"""The chaos suite: what it needs of the other tests, how much of it is run, and its figures."""

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
    """Leave the long scenarios out unless ``-m chaos`` asks for them."""
    if "chaos" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("chaos")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the line of each scenario."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures of the chaos")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Take the line of figures of a scenario."""
    lines = request.config.stash.setdefault(FIGURES, [])

    def take(line: object) -> None:
        name = request.node.name.removeprefix("test_").replace("_", " ")
        lines.append(f"{name}: {line}")

    return take


@pytest.fixture(scope="session")
def count() -> int:
    """How many kills the large scenarios make: CHAOS_N, by default 1000. The others scale with it."""
    return int(os.environ.get("CHAOS_N", "1000"))


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the recording sink to all processes, and have them look for their faults."""
    site = tmp_path / "site"
    offer_sinks(site, file="support.telemetry_fakes:FileSink", other="support.telemetry_fakes:FileSink")
    (site / "sitecustomize.py").write_text(SITE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def chaos_run(tmp_path: Path) -> Iterator[Callable[..., ChaosRun]]:
    """Give a function that makes a run; what is left of its processes is ended."""
    runs: list[ChaosRun] = []

    def make(*sinks: Backend, **options: Any) -> ChaosRun:
        runs.append(ChaosRun(tmp_path / f"chaos-{len(runs)}", sinks, **options))
        return runs[-1]

    yield make
    for run in runs:
        run.end()
