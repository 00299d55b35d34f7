"""The heartbeat file of a trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.telemetry_fakes import FOREIGN
from telemetry.run_folder.heartbeat import Counts, Heartbeat, read_heartbeat, write_heartbeat


def test_a_heartbeat_is_read_back_and_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    counts = Counts(offered=5, journaled=3, lost=2, step=400, dropped={"queue full": 2})
    written = Heartbeat(trainer=FOREIGN, attempt=2, beat=7, counts=counts)
    write_heartbeat(tmp_path, written)
    assert read_heartbeat(tmp_path) == written
    assert synced == []


def test_a_run_without_records_counts_none() -> None:
    assert Counts() == Counts(offered=0, journaled=0, lost=0, step=0, dropped={})


def test_a_missing_heartbeat_is_none(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path) is None


def test_what_was_left_out_is_listed_by_reason() -> None:
    counts = Counts(dropped={"queue full": 3, "not a number": 1})
    assert counts.dropped_text() == "left out: 3 x queue full, 1 x not a number"
