"""Shared fixtures of the chaos suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chaos.backends import Backend
from support.chaos.run import ChaosRun
from support.telemetry_fakes import offer_sinks

SITE = """
from support.chaos import faults
faults.arm()
"""


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
