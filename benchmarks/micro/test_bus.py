"""Measure ``due`` and ``publish`` of the bus."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from telemetry import Metric, MetricBus, Settings, open_run
from telemetry.cadence import Cadence
from telemetry.testing import RecordingSink

NAMES = ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse")
VALUES = dict.fromkeys(NAMES, 1.25)


@pytest.fixture
def buses(tmp_path: Path) -> Iterator[Any]:
    opened: list[MetricBus] = []

    def open_bus(sinks: int = 0) -> MetricBus:
        bus = open_run(
            tmp_path / "run",
            metrics={f"train/{name}": Metric() for name in NAMES},
            sinks=[RecordingSink(f"sink-{number}") for number in range(sinks)],
            settings=Settings(every=1),
        )
        opened.append(bus)
        return bus

    yield open_bus
    for bus in opened:
        bus.close()


@pytest.mark.benchmark(group="due point")
def test_due_at_an_iteration_that_is_not_due(benchmark: Any) -> None:
    benchmark(Cadence(200).due, "train", 201)


def publish(benchmark: Any, bus: MetricBus) -> None:
    steps = count(1)
    # Flush before each round, so that the queue never fills up.
    benchmark.pedantic(
        lambda step: bus.publish("train", step, VALUES),
        setup=lambda: (bus.flush(), ((next(steps),), {}))[1],
        rounds=2000,
    )
    assert bus.counts().lost == 0


@pytest.mark.benchmark(group="due point")
def test_publish(benchmark: Any, buses: Any) -> None:
    publish(benchmark, buses())


@pytest.mark.benchmark(group="publish, by number of sinks")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_scaling_with_sinks(benchmark: Any, buses: Any, size: int) -> None:
    publish(benchmark, buses(size))


@pytest.mark.benchmark(group="publish, by number of earlier points")
@pytest.mark.parametrize("size", [1, 1_000, 30_000])
def test_scaling_with_earlier_points(benchmark: Any, buses: Any, size: int) -> None:
    bus = buses()
    for step in range(size):
        bus.publish("train", step, VALUES)
        if step % 5_000 == 0:
            bus.flush()
    publish(benchmark, bus)
