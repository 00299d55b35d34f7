"""RunCloser: the order of the end of a run, repeated and reentrant calls, and a hung disk; without a journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telemetry.delivery.deadline import Deadline
from telemetry.recording.record_queue import RecordQueue
from telemetry.recording.run_closer import RunCloser


class FakeThread:
    """Stands for the journal thread and its supervisor, and records the calls in order."""

    def __init__(self, folder: Path) -> None:
        self.queue = RecordQueue(folder)
        self.supervisor = self
        self.is_committing = True
        self.calls: list[str] = []
        self.on_finish: Callable[[], None] = lambda: None

    def join(self, timeout: float) -> None:
        status = self.queue.closed.status if self.queue.closed else "open"
        self.calls.append(f"join {timeout} {status}")

    def start_deliveries(self) -> None:
        self.calls.append("start deliveries")

    def finish(self, deadline: Deadline) -> None:
        self.calls.append(f"finish {deadline.remaining():.1f}")
        self.on_finish()


@pytest.fixture
def thread(tmp_path: Path) -> FakeThread:
    return FakeThread(tmp_path)


@pytest.fixture
def closer(tmp_path: Path, thread: Any) -> RunCloser:
    return RunCloser(tmp_path, thread, timeout=3.0)


def test_the_journal_is_complete_before_the_deliveries_are_finished(closer: RunCloser, thread: FakeThread) -> None:
    closer.close("preempted", "SIGTERM", 7.0)
    assert thread.calls == ["join 3.0 preempted", "start deliveries", "finish 7.0"]


def test_the_wait_for_the_sinks_can_be_limited_before_it_begins(closer: RunCloser, thread: FakeThread) -> None:
    closer.limit_drain(2.0)
    closer.limit_drain(5.0)
    closer.close("finished", "", 7.0)
    assert thread.calls[-1] == "finish 2.0"


def test_only_the_first_call_ends_the_run_and_all_return_its_receipt(closer: RunCloser, thread: FakeThread) -> None:
    receipt = closer.close("finished", "", 7.0)
    assert receipt is not None
    assert closer.close("failed", "", 7.0) is receipt
    assert len(thread.calls) == 3
    assert thread.queue.closed is not None
    assert thread.queue.closed.status == "finished"


def test_a_call_from_a_signal_handler_during_a_call_returns_at_once(closer: RunCloser, thread: FakeThread) -> None:
    nested: list[object] = []
    thread.on_finish = lambda: nested.append(closer.close("failed", "SIGTERM", 7.0))
    assert closer.close("finished", "", 7.0) is not None
    assert nested == [None]
    assert len(thread.calls) == 3


def test_without_a_readable_run_folder_the_receipt_has_the_counts_only(closer: RunCloser, thread: FakeThread) -> None:
    thread.is_committing = False
    thread.queue.put(("train",), 1, {"train": {"loss": 1.0}})
    receipt = closer.close("finished", "", 7.0)
    assert receipt is not None
    assert (receipt.status, receipt.sinks, receipt.counts.offered) == (None, [], 1)
