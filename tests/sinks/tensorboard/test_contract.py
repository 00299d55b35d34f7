"""The sink contract on the TensorBoard sink, with real files and with failing file access."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sinks.tensorboard import event_files
from sinks.tensorboard.sink import TensorBoardSink
from support.retries import RetryingSink
from support.tensorboard_contract import TensorBoardKit, replace_os
from telemetry.testing import SinkContract
from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.points import sample
from telemetry.testing.restart_checks import RestartChecks


class TestTensorBoard(TensorBoardKit, SinkContract):
    """On real files."""


class PeriodicallyFailingOs:
    """The module ``os``, whose file functions fail periodically, in ways observed on real file systems."""

    def __init__(self) -> None:
        self.calls = dict.fromkeys(("open", "write", "fsync", "close", "listdir"), 0)
        self.failed: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _fails(self, name: str, period: int) -> bool:
        self.calls[name] += 1
        fails = self.calls[name] % period == 0
        if fails:
            self.failed.add(name)
        return fails

    def open(self, *args: Any) -> int:
        if self._fails("open", 7):
            raise OSError(errno.EMFILE, "Too many open files")
        return os.open(*args)

    def write(self, fd: int, data: memoryview) -> int:
        """Write only part of every other batch; every third call finds the disk full."""
        if self._fails("write", 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data[: len(data) * 2 // 3 + 1] if self.calls["write"] % 2 else data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)
        if self._fails("fsync", 4):
            raise OSError(errno.EIO, "Input/output error")

    def close(self, fd: int) -> None:
        os.close(fd)
        if self._fails("close", 9):
            raise OSError(errno.EIO, "Input/output error")

    def listdir(self, path: Path) -> list[str]:
        if self._fails("listdir", 5):
            raise OSError(errno.ESTALE, "Stale file handle")
        return os.listdir(path)


class TestOnAFailingFileSystem(TensorBoardKit, ContentChecks, RestartChecks, FaultChecks):
    """With retries, a run is written through all failures as it is without any."""

    @pytest.fixture(autouse=True)
    def _restore_os(self, monkeypatch: pytest.MonkeyPatch) -> None:
        replace_os(monkeypatch, os)

    def make_sink(self, folder: Path) -> RetryingSink:  # type: ignore[override]
        # Not in the fixture, because the contract calls this in other processes, too.
        if not isinstance(event_files.os, PeriodicallyFailingOs):
            replace_os(pytest.MonkeyPatch(), PeriodicallyFailingOs())
        return RetryingSink(lambda: TensorBoardSink(TensorBoardSink.Options()))

    def make_elsewhere(self, folder: Path) -> RetryingSink:  # type: ignore[override]
        return RetryingSink(lambda: TensorBoardSink(TensorBoardSink.Options(dir=str(folder / "elsewhere"))))

    def test_each_function_has_failed(self, tmp_path: Path) -> None:
        driver = self.open_sink(tmp_path / "run")
        for first in range(1, 100, 5):
            driver.write(sample(first, first + 4))
        assert isinstance(event_files.os, PeriodicallyFailingOs)
        assert event_files.os.failed == {"open", "write", "fsync", "close", "listdir"}
