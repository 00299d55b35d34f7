"""RunCloser: the order of the end of a run, repeated and reentrant calls, and a hung disk; without a journal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import eventually
from telemetry.delivery.deadline import Deadline
from telemetry.recording.limits import DEFAULT_LIMITS
from telemetry.recording.media_content import encode_text
from telemetry.recording.media_recorder import MediaRecorder
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
def media(tmp_path: Path, thread: FakeThread) -> MediaRecorder:
    return MediaRecorder(tmp_path, thread.queue, {}, 1, DEFAULT_LIMITS)


@pytest.fixture
def closer(tmp_path: Path, thread: Any, media: MediaRecorder) -> RunCloser:
    return RunCloser(tmp_path, thread, media, timeout=3.0)


def test_the_journal_is_complete_before_the_deliveries_are_finished(closer: RunCloser, thread: FakeThread) -> None:
    closer.close("preempted", "SIGTERM", 7.0)
    assert thread.calls == ["join 3.0 preempted", "start deliveries", "finish 7.0"]


def test_the_wait_for_the_sinks_can_be_limited_before_it_begins(closer: RunCloser, thread: FakeThread) -> None:
    closer.limit_drain(2.0)
    closer.limit_drain(5.0)
    closer.close("finished", "", 7.0)
    assert thread.calls[-1] == "finish 2.0"


def test_pending_media_are_waited_for_before_the_queue_is_closed(
    closer: RunCloser, thread: FakeThread, media: MediaRecorder
) -> None:
    release = threading.Event()
    media.offer("val/notes", 1, lambda: str(release.wait(10)), encode_text)
    threading.Timer(0.05, release.set).start()
    closer.close("finished", "", 7.0)
    (item,) = thread.queue.take(0)
    assert item.streams == ("val/notes",)


def test_the_wait_for_media_can_be_limited_while_it_lasts(
    closer: RunCloser, thread: FakeThread, media: MediaRecorder
) -> None:
    release = threading.Event()
    media.offer("val/notes", 1, lambda: str(release.wait(10)), encode_text)
    threading.Timer(0.05, closer.limit_drain, [0.0]).start()
    closer.close("finished", "", 7.0)
    assert thread.queue.take(0) == ()
    release.set()
    assert eventually(lambda: thread.queue.tally.counts().dropped == {"run closed": 1})


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
