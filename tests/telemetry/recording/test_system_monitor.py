"""The stream ``system``: what is sampled, and when a point is published."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from support.telemetry_fakes import eventually
from telemetry import Metric, open_run, read_run
from telemetry.recording.system_monitor import SystemMonitor, ValueProbe
from telemetry.sink_api import Scalars


class Run:
    """What a monitor publishes and declares, for a run at a step that the test sets."""

    def __init__(self, *probes: ValueProbe, interval: float = 30) -> None:
        self.step = 0
        self.points: list[tuple[int, dict[str, float]]] = []
        self.declared: list[str] = []
        self.monitor = SystemMonitor(
            interval,
            publish=lambda step, values: self.points.append((step, dict(values))),
            declare=self._declare,
            newest_step=lambda: self.step,
            makers=[lambda probe=probe: probe for probe in probes],  # type: ignore[misc]
        )

    def _declare(self, metrics: Mapping[str, Metric]) -> None:
        self.declared += metrics


def probe(name: str, values: Iterable[float]) -> ValueProbe:
    return ValueProbe(name, Metric(unit="%"), iter(values).__next__)


def test_a_point_has_the_newest_step_and_the_means_since_the_previous_point() -> None:
    run = Run(probe("cpu", [10, 20, 60, 70, 90]))
    run.monitor.sample()
    run.monitor.sample()
    assert run.points == []
    run.step = 200
    run.monitor.sample()
    run.monitor.sample()
    assert run.points == [(200, {"cpu": 30})]
    run.step = 400
    run.monitor.sample()
    assert run.points == [(200, {"cpu": 30}), (400, {"cpu": 80})]


def test_each_value_is_declared_once_before_its_first_point() -> None:
    run = Run(probe("cpu", [1, 2]))
    run.step = 1
    run.monitor.sample()
    assert run.declared == ["system/cpu"]
    run.monitor.add(probe("loader_wait", [50]))
    run.step = 2
    run.monitor.sample()
    assert run.declared == ["system/cpu", "system/loader_wait"]
    assert run.points[-1] == (2, {"cpu": 2, "loader_wait": 50})


def test_a_failing_probe_is_reported_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> float:
        raise RuntimeError("GPU is lost")

    run = Run(ValueProbe("gpu0_memory", Metric(unit="GiB"), fail), probe("cpu", [1, 2]))
    with caplog.at_level(logging.WARNING):
        for run.step in (1, 2):
            run.monitor.sample()
    assert run.points == [(1, {"cpu": 1}), (2, {"cpu": 2})]
    assert [record.message for record in caplog.records] == [
        "some system metrics are missing: RuntimeError: GPU is lost"
    ]


def test_values_whose_package_is_not_installed_are_absent_without_a_message(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> ValueProbe:
        raise ImportError("psutil")

    run = Run()
    run.monitor._makers += [make, lambda: probe("cpu", [1])]
    run.step = 1
    run.monitor.sample()
    assert run.points == [(1, {"cpu": 1})]
    assert not caplog.records


def test_nothing_is_published_after_the_end() -> None:
    run = Run(probe("cpu", [1]))
    run.step = 1
    run.monitor.stop()
    run.monitor.sample()
    assert run.points == []


@pytest.mark.parametrize(("interval", "expected"), [(0.001, True), (0, False)])
def test_an_interval_of_zero_turns_the_thread_off(interval: float, expected: bool) -> None:
    read = threading.Event()
    run = Run(ValueProbe("cpu", Metric(unit="%"), lambda: float(read.set() is None)), interval=interval)
    run.monitor.start()
    assert read.wait(10 if expected else 0) is expected
    run.monitor.stop()


def test_the_points_of_a_run_follow_its_steps_and_raise_no_alerts(tmp_path: Path) -> None:
    settings = {"sinks": "none", "every": 1, "system": 0.01}
    with open_run(tmp_path / "run", metrics={"train/loss": Metric(watch=True)}, settings=settings) as bus:
        bus.sample("loader_wait", Metric(unit="%", label="waiting"), lambda: 12.5)
        for step in (1, 2):
            bus.publish("train", step, {"loss": 1.0})
            eventually(lambda step=step: bus.flush() and (step, 12.5) in waits(tmp_path / "run"))  # type: ignore[misc]
        assert bus.alerts == ()
        assert bus.counts().lost == 0
    assert [step for step, _ in waits(tmp_path / "run")] == [1, 2]
    assert read_run(tmp_path / "run").metrics["system/loader_wait"].unit == "%"


def waits(folder: Path) -> list[tuple[int, float]]:
    from telemetry.journal.reader import JournalReader

    records = JournalReader(folder).read(1000, live=False)
    points = [r for r in records if isinstance(r, Scalars) and r.stream == "system"]
    return [(point.step, point.values["loader_wait"]) for point in points]
