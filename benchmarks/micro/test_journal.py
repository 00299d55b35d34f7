"""Measure appending to the journal, reading it, and delivering it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from components import NAMES, fill

from telemetry import Metric, Settings, read_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.journal.reader import JournalReader
from telemetry.journal.writer import JournalWriter
from telemetry.plugins.registry import select
from telemetry.records import Closed
from telemetry.sink_api import Scalars
from telemetry.testing import RecordingSink, run_record

VALUES = {name: number + 0.123456789 for number, name in enumerate(NAMES)}


@pytest.mark.benchmark(group="journal")
def test_append_and_commit_1000_records(benchmark: Any, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, run_record())

    def append() -> None:
        for _ in range(1000):
            writer.append(lambda seq: Scalars(seq=seq, time=seq, stream="train", step=seq, values=VALUES))
        writer.commit()

    benchmark(append)
    writer.close()


@pytest.mark.benchmark(group="journal")
def test_read_1000_records(benchmark: Any, tmp_path: Path) -> None:
    fill(tmp_path, 1000)[0].close()
    benchmark(lambda: JournalReader(tmp_path).read(2000, live=False))


@pytest.mark.benchmark(group="reading a run of 20,000 training points and 1,000 validations, 24 values each")
@pytest.mark.parametrize("metrics", [["val/*"], ["train/0"], []], ids=["validation", "one training curve", "all"])
def test_read_run(benchmark: Any, tmp_path: Path, metrics: list[str]) -> None:
    values = {str(number): number + 0.123456789 for number in range(24)}
    declared = {f"{stream}/{name}": Metric() for stream in ("train", "val") for name in values}
    writer = JournalWriter(tmp_path, run_record(metrics=declared))

    def append(stream: str, step: int) -> None:
        writer.append(lambda seq: Scalars(seq=seq, time=step, stream=stream, step=step, values=values))

    for step in range(1, 20_001):
        append("train", step)
        if step % 20 == 0:
            append("val", step)
    writer.commit()
    writer.close()
    read = benchmark.pedantic(lambda: read_run(tmp_path, metrics=metrics), rounds=5)
    assert len(read.curves) == {"val/*": 24, "train/0": 1}.get("".join(metrics), 48)


@pytest.mark.benchmark(group="reading one new record, by number of earlier records")
@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
def test_scaling_with_journal(benchmark: Any, tmp_path: Path, size: int) -> None:
    writer, _ = fill(tmp_path, size)
    reader = JournalReader(tmp_path)
    while reader.read(10_000, live=True):
        pass

    def read() -> None:
        assert len(reader.read(1000, live=True)) == 1

    def append_one() -> None:
        writer.append(lambda seq: Scalars(seq=seq, time=seq, stream="train", step=seq, values=VALUES))
        writer.commit()

    benchmark.pedantic(read, setup=append_one, rounds=300)
    writer.close()


@pytest.mark.benchmark(group="delivery, by backlog")
@pytest.mark.parametrize("size", [100, 1_000, 10_000])
def test_scaling_with_backlog(benchmark: Any, tmp_path: Path, size: int) -> None:
    writer, _ = fill(tmp_path, size)
    writer.append(lambda seq: Closed(seq=seq, time=seq, status="finished"))
    writer.commit()
    writer.close()
    (tmp_path / "sinks").mkdir()
    numbers = count()

    def new_delivery() -> tuple[tuple[Delivery, RecordingSink], dict[str, Any]]:
        sink = RecordingSink(f"sink-{next(numbers)}")
        (chosen,) = select([sink], {})
        delivery = Delivery(tmp_path, chosen, Settings(), follow=False)
        assert delivery.lease.try_acquire()
        return (delivery, sink), {}

    def deliver(delivery: Delivery, sink: RecordingSink) -> None:
        assert delivery.run() is DeliveryOutcome.COMPLETE
        assert len(sink.records) == size

    benchmark.pedantic(deliver, setup=new_delivery, rounds=5)
