"""Installed sinks and a run that was trained with one of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.cli_runs import FileSinkRun
from support.telemetry_fakes import offer_sinks


@pytest.fixture
def fake_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the sinks ``file``, ``lacking`` and ``broken``, also for child processes."""
    site = tmp_path / "site"
    offer_sinks(
        site,
        file="support.telemetry_fakes:FileSink",
        lacking="support.telemetry_fakes:LackingSink",
        broken="no_such_module:Sink",
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """Return the backend of the sink ``file``: an empty folder."""
    folder = tmp_path / "backend"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, backend: Path) -> FileSinkRun:
    """Return a run trained with the sink ``file``."""
    return FileSinkRun(tmp_path / "run", backend)
