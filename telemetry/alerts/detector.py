"""Anomaly detection: check each recorded point, and raise an alert when a problem begins and when it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from telemetry.alerts import rules
from telemetry.alerts.history import MetricHistory
from telemetry.alerts.missing_values import MissingValues
from telemetry.alerts.problem_tracker import ProblemTracker
from telemetry.alerts.settings import AlertSettings
from telemetry.metrics import Metric, direction, possible_streams
from telemetry.records import Alert, Cause, Scalars

DIVERGED_POINTS = 5
"""A run has diverged if a loss diverges for this many consecutive points (see ``MetricHistory.diverging``)."""


class Divergence(msgspec.Struct, frozen=True):
    """Why a run is considered diverged, and the iteration of the last healthy point."""

    reason: str
    after: int


class AnomalyDetector:
    """Find problems in the points of a run. Not thread-safe.

    Attributes:
        last_healthy_step: the last iteration at which all watched metrics were finite, no loss was high, and the
            level of each training loss was close to its lowest one.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        settings: AlertSettings,
        *,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without points.

        Args:
            metrics: the declared metrics by full name. All are checked for non-finite values, and those with
                ``watch`` are checked by all rules.
            settings: thresholds for raising an alert.
            start: the iteration after which training resumes; it counts as healthy.
            clock: monotonic clock in seconds.
        """
        self.last_healthy_step = start
        self._settings = settings
        self._metrics: dict[str, Metric] = {}
        self._step = 0
        self._histories: dict[str, MetricHistory] = {}
        self._losses: dict[str, MetricHistory] = {}
        self._watched: frozenset[str] = frozenset()
        self.declare(metrics)
        self._learning_rate = rules.LearningRate()
        self._missing_values = MissingValues()
        self._stall = rules.Stall(settings, clock)
        self._tracker = ProblemTracker(quiet_points=settings.history)

    def declare(self, metrics: Mapping[str, Metric]) -> None:
        """Add metrics, as at the start."""
        new = {name: metric for name, metric in metrics.items() if metric.watch and name not in self._watched}
        self._metrics |= metrics
        self._watched |= new.keys()
        self._histories |= {
            name: MetricHistory(self._settings) for name, metric in new.items() if direction(name, metric) != "higher"
        }
        self._losses |= {name: self._histories[name] for name in new if name in self._histories and rules.is_loss(name)}

    @property
    def active(self) -> tuple[Cause, ...]:
        """Causes of the current problems."""
        return self._tracker.active

    @property
    def loss_streams(self) -> list[str]:
        """Streams that may contain a watched loss."""
        return sorted({stream for name in self._losses for stream in possible_streams(name)})

    @property
    def diverged(self) -> Divergence | None:
        """Why the run is considered diverged, or None.

        A run has diverged if a watched metric is not finite, a watched loss stays far above its usual value, or the
        level of a training loss is far above its lowest one.
        """
        for name, problem in self._tracker.problems("non-finite").items():
            if name in self._watched:
                return Divergence(problem.title, self.last_healthy_step)
        for problem in self._tracker.problems("diverging").values():
            return Divergence(problem.title, self.last_healthy_step)
        for name, history in self._losses.items():
            if history.diverging >= DIVERGED_POINTS:
                usual = rules.format_value(history.baseline, self._metrics[name])
                return Divergence(f"{name} stays far above its usual value of {usual}", self.last_healthy_step)
        return None

    def observe(self, record: Scalars, *, partial: bool = False) -> list[Alert]:
        """Check a point, and return the alerts that it causes.

        Args:
            record: the point.
            partial: whether it covers fewer batches than the earlier points, so that metrics may be missing.
        """
        self._step = record.step
        self._tracker.next_point()
        values = dict(record.items())
        watched = {name: value for name, value in values.items() if name in self._watched}
        errors = {name: value for name, value in watched.items() if name in self._histories}
        if self._learning_rate.has_risen(record.stream, values):
            for history in self._histories.values():
                history.expect_rise()
        self._add(errors)
        update, known = self._tracker.update, self._tracker.problems
        update("non-finite", values, rules.non_finite(values))
        update("spike", errors, rules.spikes(errors, self._histories, self._metrics))
        update("diverging", errors, rules.divergences(errors, self._histories, self._metrics, known("diverging")))
        if not partial:
            update("unlabelled", *self._missing_values.check(record.stream, watched))
        update("apart", errors, rules.rising_errors(errors, self._histories, self._metrics, known("apart")))
        self._stall.note_point()
        update("stalled", ("",), {})
        if watched and self._is_healthy():
            self.last_healthy_step = record.step
        return self._tracker.changes(record.step)

    def replay(self, records: Iterable[Scalars]) -> None:
        """Learn the levels of the losses from earlier attempts of the run, without raising alerts.

        If the last record is not healthy, neither is the iteration after which training resumes: a checkpoint from
        before the problem remains the last healthy one.
        """
        start, last = self.last_healthy_step, 0
        healthy = True
        for record in records:
            losses = {name: value for name, value in record.items() if name in self._losses}
            self._add(losses)
            healthy = all(map(math.isfinite, losses.values())) and self._losses_are_healthy()
            if losses and healthy:
                last = record.step
        self.last_healthy_step = start if healthy else last

    def check_silence(self) -> list[Alert]:
        """Check the time since the last point, and return an alert if training has stalled since the last check."""
        found = self._stall.check()
        if not found or "stalled" in self._tracker.active:
            return []
        self._tracker.update("stalled", ("",), found)
        return self._tracker.changes(self._step)

    def _add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._histories[name].add(value)

    def _is_healthy(self) -> bool:
        finite = not any(name in self._watched for name in self._tracker.problems("non-finite"))
        return finite and self._losses_are_healthy()

    def _losses_are_healthy(self) -> bool:
        return not any(
            history.is_high or (rules.is_training_loss(name) and not history.is_healthy())
            for name, history in self._losses.items()
        )
