"""Count the false and missed alerts of the detector on labeled runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from support.alert_curves import WINDOW, Labeled
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

    def as_json(self) -> dict[str, object]:
        """Return the numbers, with the median of the delays."""
        delays = {cause: median(steps) / WINDOW for cause, steps in self.delays.items() if steps}
        counts = {
            "false": self.false,
            "runs_with_false": self.runs_with_false,
            "expected": self.expected,
            "missed": self.missed,
        }
        return {"runs": self.runs, "points": self.points, "delays": delays} | {
            name: {cause: number for cause, number in sorted(count.items()) if number} for name, count in counts.items()
        }

    def add(self, run: Labeled) -> None:
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


RULES = ("non-finite", "spike", "diverging", "unlabelled", "apart", "stalled")


def table(results: dict[str, Any]) -> str:
    """Return two tables of rates before and now, by rule and by kind of curve, as Markdown."""
    before, now = results["before"], results["now"]
    lines = ["| rule | false alerts | runs with one | missed | median delay, in points |", "|---|---|---|---|---|"]
    for rule in RULES:
        cells = [
            _pair(*(_total(rates, name, rule) for rates in (before, now))) for name in ("false", "runs_with_false")
        ]
        missed = _pair(*(_total(rates, "missed", rule) for rates in (before, now)))
        expected = _total(now, "expected", rule)
        delay = median([rates["delays"][rule] for rates in now.values() if rule in rates["delays"]])
        lines.append(f"| `{rule}` | {cells[0]} | {cells[1]} | {missed} of {expected:,} | {delay:g} |")
    totals = [_pair(*(_total(rates, name) for rates in (before, now))) for name in ("false", "missed")]
    lines.append(f"| total | {totals[0]} | | {totals[1]} of {_total(now, 'expected'):,} | |")
    lines += ["", "| curves | runs | points | false alerts | missed |", "|---|---|---|---|---|"]
    for kind, rates in now.items():
        false = _pair(sum(before[kind]["false"].values()), sum(rates["false"].values()))
        missed = _pair(sum(before[kind]["missed"].values()), sum(rates["missed"].values()))
        if not rates["expected"]:
            missed = ""
        lines.append(f"| {kind.replace('_', ' ')} | {rates['runs']} | {rates['points']:,} | {false} | {missed} |")
    return "\n".join(lines)


def _pair(before: int, now: int) -> str:
    return f"{before:,} → {now:,}"


def _total(results: dict[str, Any], name: str, rule: str | None = None) -> int:
    return sum(number for rates in results.values() for cause, number in rates[name].items() if rule in (None, cause))


def raised(run: Labeled) -> list[Alert]:
    """Return the alerts about problems in a run, without those about recoveries."""
    now = 0.0
    metrics = run.metrics
    start = run.earlier[-1].step if run.earlier else 0
    detector = AnomalyDetector(metrics, AlertSettings(), start=start, clock=lambda: now)
    detector.replay(point for point in run.earlier if point.stream in detector.loss_streams)
    alerts: list[Alert] = []
    number = 0
    for point in run.points:
        if point.stream == "train":
            end = now + run.pauses.get(number, 10.0)
            number += 1
            while now + POLL < end:
                now += POLL
                alerts += detector.check_silence()
            now = end
        alerts += detector.observe(point)
    return [alert for alert in alerts if not alert.recovered]


def false_alerts(run: Labeled, alerts: Iterable[Alert]) -> list[Alert]:
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
