"""Settings in the format of the original trainer, and the notice that loading them logs."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from aimnet2mult.config.schema import Config, load

FILES = Path(__file__).parents[2] / "aimnet2mult" / "config" / "legacy" / "original"
NAMES = ["run_name=r", "project_name=p"]
LOGGER = "aimnet2mult.config.legacy.settings"


def read(name: str, data: Sequence[str], *overrides: str) -> Config:
    """Load one of the original files, with names where it has placeholders for them."""
    return load([FILES / f"{name}.yaml"], [*data, *(NAMES if name == "plateau" else ()), *overrides])


def notice(caplog: pytest.LogCaptureFixture) -> str:
    """Return the only notice that was logged."""
    (record,) = (record for record in caplog.records if record.name == LOGGER)
    assert record.levelno == logging.WARNING
    return record.getMessage()


def notes(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Return the notes of the only notice, by key."""
    pairs = (line.strip().partition(": ") for line in notice(caplog).splitlines()[2:])
    return {key: text for key, _, text in pairs}
