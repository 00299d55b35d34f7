"""Count the false and missed alerts of the detector on labelled runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from support.alert_curves import Labelled
from telemetry.alerts.detector import AnomalyDetector
from telemetry.alerts.settings import AlertSettings
from telemetry.records import Alert

POLL = 5.0
"""Interval of the checks for a stall, in seconds."""


@dataclass
class Rates:
    """False and missed alerts of a number of runs.

    Attributes:
        runs: number of runs.
        points: number of points of the training stream.
        false: false alerts by cause.
        runs_with_false: number of runs with a false alert, by cause.
        expected: alerts that are required, by cause.
        missed: those of them that were not raised in time, by cause.
        delays: for those raised, the number of iterations after the beginning of the problem, by cause.
    """

    runs: int = 0
    points: int = 0
    false: Counter[str] = field(default_factory=Counter)
    runs_with_false: Counter[str] = field(default_factory=Counter)
    expected: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    delays: dict[str, list[int]] = field(default_factory=dict)

    def add(self, run: Labelled) -> None:
        """Count the alerts of a run."""
        alerts = raised(run)
        false = Counter(alert.cause or "" for alert in false_alerts(run, alerts))
        self.runs += 1
        self.points += sum(point.stream == "train_window" for point in run.points)
        self.false += false
        self.runs_with_false += Counter(false.keys())
        for expected in run.expected:
            cause = expected.causes[0]
            steps = [
                alert.step
                for alert in alerts
                if alert.cause in expected.causes and expected.first <= alert.step <= expected.last
            ]
            self.expected[cause] += 1
            self.missed[cause] += not steps
            self.delays.setdefault(cause, []).extend(step - expected.first for step in steps[:1])


def raised(run: Labelled) -> list[Alert]:
    """Return the alerts about problems in a run, without those about recoveries."""
    now = 0.0
    metrics = run.metrics
    start = run.earlier[-1].step if run.earlier else 0
    detector = AnomalyDetector(metrics, AlertSettings(), start=start, clock=lambda: now)
    detector.replay(point for point in run.earlier if point.stream in detector.loss_streams)
    alerts: list[Alert] = []
    for number, point in enumerate(run.points):
        end = now + run.pauses.get(number, 10.0)
        while now + POLL < end:
            now += POLL
            alerts += detector.check_silence()
        now = end
        alerts += detector.observe(point)
    return [alert for alert in alerts if not alert.recovered]


def false_alerts(run: Labelled, alerts: Iterable[Alert]) -> list[Alert]:
    """Return the alerts that are not right, and those that repeat one that is."""
    right = Counter[str]()
    for expected in run.expected:
        right.update({*expected.causes, *expected.also})
    false = []
    for alert in alerts:
        cause = alert.cause or ""
        begun = any(expected.first <= alert.step for expected in run.expected)
        if begun and right[cause]:
            right[cause] -= 1
        else:
            false.append(alert)
    return false
