"""RecordQueue: order, capacity, counting, flushing and closing, without a journal."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from telemetry.recording.record_queue import QueuedRecords, RecordQueue
from telemetry.records import Alert, Closed


def values(*streams: str) -> dict[str, dict[str, float]]:
    return {stream: {"loss": 1.0} for stream in streams}


def closed() -> Closed:
    return Closed(seq=0, time=0, status="finished")


def counts(queue: RecordQueue) -> tuple[int, int, int]:
    now = queue.tally.counts()
    return now.offered, now.journaled, now.lost


@pytest.fixture
def queue(tmp_path: Path) -> RecordQueue:
    return RecordQueue(tmp_path, capacity=4)


def steps(items: tuple[QueuedRecords, ...] | list[QueuedRecords]) -> list[int]:
    return [item.step for item in items]


def test_items_are_dequeued_once_and_in_order(queue: RecordQueue) -> None:
    queue.put(("train",), 1, values("train"))
    queue.put_record("alert", 2, Alert(seq=0, time=0, step=2, title="spike"))
    queue.put(("train", "val"), 3, values("train", "val"))
    items = list(queue.take(0))
    assert steps(items) == [1, 2, 3]
    assert [item.streams for item in items] == [("train",), ("alert",), ("train", "val")]
    assert [item.number for item in items] == [1, 2, 4]
    assert list(queue.take(0)) == []


def test_records_that_are_dequeued_but_not_written_still_fill_the_queue(queue: RecordQueue) -> None:
    for step in range(4):
        queue.put(("train",), step, values("train"))
    queue.take(0)
    queue.put(("train",), 4, values("train"))
    assert counts(queue) == (5, 0, 1)
    queue.mark_written(4, last_seq=4)
    queue.put(("train",), 5, values("train"))
    assert counts(queue) == (6, 4, 1)
    assert steps(list(queue.take(0))) == [5]


def test_a_group_that_does_not_fit_is_dropped_as_a_whole_with_one_warning(
    queue: RecordQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put(("train",), 1, values("train"))
    for step in (2, 3):
        queue.put(("a", "b", "c", "d"), step, values("a", "b", "c", "d"))
    assert counts(queue) == (9, 0, 8)
    assert steps(list(queue.take(0))) == [1]
    assert [record.message for record in caplog.records] == [
        "dropping points from iteration 2: the queue is full (4 records are waiting for the disk)"
    ]


def test_a_final_record_is_left_out_where_the_stream_has_that_step_already(queue: RecordQueue) -> None:
    queue.put(("train",), 7, values("train"))
    queue.put(("train", "val"), 7, values("train", "val"), final=True)
    queue.put(("train", "val"), 7, values("train", "val"), final=True)
    assert [item.streams for item in queue.take(0)] == [("train",), ("val",)]


def test_flush_returns_when_all_dequeued_records_are_written_or_lost(queue: RecordQueue) -> None:
    queue.put(("train",), 1, values("train"))
    queue.put(("train",), 2, values("train"))
    assert not queue.flush(0)
    queue.take(0)
    queue.tally.lose(1)
    assert not queue.flush(0)
    queue.mark_written(1, last_seq=1)
    assert queue.flush(0)
    assert queue.last_seq == 1
    assert counts(queue) == (2, 1, 1)


def test_flush_does_not_wait_for_records_offered_later(queue: RecordQueue) -> None:
    queue.put(("train",), 1, values("train"))
    queue.take(0)
    queue.put(("train",), 2, values("train"))
    answers: list[bool] = []
    flushing = threading.Thread(target=lambda: answers.append(queue.flush(60)))
    flushing.start()
    queue.take(0)
    queue.mark_written(2, last_seq=2)
    flushing.join(60)
    assert answers == [True]


def test_take_returns_as_soon_as_a_record_is_put(queue: RecordQueue) -> None:
    taken: list[QueuedRecords] = []
    taking = threading.Thread(target=lambda: taken.extend(queue.take(60)))
    taking.start()
    queue.put(("train",), 1, values("train"))
    taking.join(60)
    assert steps(taken) == [1]


def test_close_wakes_take_and_only_a_take_that_asks_for_it(queue: RecordQueue) -> None:
    taking = threading.Thread(target=lambda: queue.take(60))
    taking.start()
    assert queue.close(closed())
    taking.join(60)
    assert not taking.is_alive()
    other = threading.Thread(target=lambda: queue.take(60, wake_on_close=False), daemon=True)
    other.start()
    other.join(0.1)
    assert other.is_alive()


def test_a_closed_queue_drops_further_records_and_keeps_those_it_has(queue: RecordQueue) -> None:
    queue.put(("train",), 1, values("train"))
    assert queue.close(closed())
    assert not queue.close(Closed(seq=0, time=0, status="failed"))
    queue.put(("train",), 2, values("train"))
    assert counts(queue) == (2, 0, 1)
    assert not queue.is_drained
    assert steps(list(queue.take(0))) == [1]
    assert queue.is_drained
    assert queue.closed is not None
    assert queue.closed.status == "finished"


def test_generated_alerts_count_as_offered_and_are_never_dropped(queue: RecordQueue) -> None:
    for step in range(4):
        queue.put(("train",), step, values("train"))
    queue.take(0)
    queue.tally.offer(1)
    queue.mark_written(5, last_seq=5)
    assert counts(queue) == (5, 5, 0)


def test_the_highest_step_is_counted(queue: RecordQueue) -> None:
    for step in (3, 9, 4):
        queue.tally.note_step(step)
    assert queue.tally.counts().step == 9
