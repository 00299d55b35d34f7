"""Committing the journal while the disk fails: pending records, retries and log messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from telemetry.recording.disk_failures import FailureTolerantCommitter
from telemetry.recording.limits import RecordingLimits


class Writer:
    """Stands for a ``JournalWriter`` with one pending record, on a disk that can be full."""

    def __init__(self) -> None:
        self.pending = 1
        self.is_full = True
        self.tries = 0

    def commit(self) -> None:
        self.tries += 1
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.pending = 0


@pytest.fixture
def writer() -> Any:
    return Writer()


def test_nothing_pending_needs_no_disk(tmp_path: Path, writer: Any) -> None:
    writer.pending = 0
    assert FailureTolerantCommitter(tmp_path, writer).commit()
    assert writer.tries == 0


def test_a_failed_commit_is_not_retried_before_its_delay(tmp_path: Path, writer: Any) -> None:
    committer = FailureTolerantCommitter(tmp_path, writer, RecordingLimits(disk_backoff_initial=3600.0))
    assert not committer.commit()
    writer.is_full = False
    assert not committer.commit()
    assert (writer.tries, writer.pending) == (1, 1)


def test_a_retry_that_succeeds_is_logged_once_and_resets_the_delay(
    tmp_path: Path, writer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    committer = FailureTolerantCommitter(tmp_path, writer, RecordingLimits(disk_backoff_initial=0.0))
    assert not committer.commit()
    assert not committer.commit()
    writer.is_full = False
    assert committer.commit()
    assert [record.message.count(str(tmp_path)) for record in caplog.records] == [1, 1]
    assert "No space left on device" in caplog.messages[0]
    assert "works again" in caplog.messages[1]
    assert committer.retry_at == 0.0


def test_closing_the_run_retries_at_once(tmp_path: Path, writer: Any) -> None:
    committer = FailureTolerantCommitter(tmp_path, writer, RecordingLimits(disk_backoff_initial=3600.0))
    assert not committer.commit()
    writer.is_full = False
    committer.start_closing()
    assert committer.commit()
    assert committer.is_closing
