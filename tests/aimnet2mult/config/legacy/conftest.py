"""Data sets for settings of the original trainer."""

from pathlib import Path

import pytest

from aimnet2mult.config.legacy.settings import log_notice


@pytest.fixture(autouse=True)
def _no_notice_logged_yet() -> None:
    log_notice.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Return overrides that name two data sets."""
    for name in ("0.h5", "1.h5"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    return [f"data.fidelity_datasets.{index}={tmp_path / f'{index}.h5'}" for index in (0, 1)]
