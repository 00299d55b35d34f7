"""Turn problems of individual metrics into alerts: for each cause, one when it begins and one when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import islice

from telemetry.alerts.rules import Problem
from telemetry.records import Alert, Cause, json_number, now_ms

QUIET_POINTS: Mapping[Cause, int] = {"non-finite": 5, "stalled": 0}
"""Number of points for which these causes are not reported again, instead of ``quiet_points``."""
LASTING_POINTS = 5
"""A problem found at this many points in a row is reported even if its cause was reported a short time ago."""
ESCALATION = 10.0
"""A value this many times as far above its baseline as any that was reported is reported at once."""
MAX_DOUBLINGS = 10
MAX_METRICS_LISTED = 20
"""Maximum number of further metrics with the same problem that an alert lists."""

_RECOVERED: Mapping[Cause, str] = {
    "non-finite": "all values are finite again",
    "spike": "no metric is far above its usual value anymore",
    "diverging": "the loss is close to its lowest level again",
    "unlabelled": "all metrics have values again",
    "apart": "the errors are close to their lowest levels again",
    "stalled": "points arrive again",
}
_ADVICE: Mapping[Cause, str] = {
    "non-finite": "If it lasts, check the latest data, and lower the learning rate.",
    "spike": "A single spike usually does no harm. If it lasts, lower the learning rate or clip the gradients.",
    "diverging": "Restart from a checkpoint before the rise, with a lower learning rate.",
    "unlabelled": "Check that the data still contain these labels, and that each fidelity is still sampled.",
    "apart": "Check the weight of this error in the loss, and its labels.",
    "stalled": "Check the data loader, the file system, and the other ranks.",
}


class ProblemTracker:
    """Keep the current problems of each cause, and turn their beginning and end into alerts.

    A cause that has ended is not reported again for ``quiet_points`` points, unless it lasts or is much worse; each
    further time, this number doubles.
    """

    def __init__(self, quiet_points: int) -> None:
        """Start without problems."""
        self._quiet_points = quiet_points
        self._problems: dict[Cause, dict[str, Problem]] = {}
        self._streaks: Counter[Cause] = Counter()
        self._since: dict[Cause, int] = {}
        self._times_ended: Counter[Cause] = Counter()
        self._points = 0
        self._quiet_until: dict[Cause, int] = {}
        self._worst: dict[Cause, float] = {}

    @property
    def active(self) -> tuple[Cause, ...]:
        """Causes that have been reported and have not ended."""
        return tuple(self._since)

    def problems(self, cause: Cause) -> Mapping[str, Problem]:
        """Return the current problems of a cause, by metric."""
        return self._problems.get(cause, {})

    def next_point(self) -> None:
        """Count a point."""
        self._points += 1

    def update(self, cause: Cause, examined: Collection[str], found: Mapping[str, Problem]) -> None:
        """Replace the problems of the examined metrics by those found; those of other metrics remain."""
        problems = self._problems.setdefault(cause, {})
        for name in examined:
            if name not in found:
                problems.pop(name, None)
        problems.update(found)
        if found:
            self._streaks[cause] += 1
        elif not problems:
            self._streaks[cause] = 0

    def changes(self, step: int) -> list[Alert]:
        """Return an alert for each cause that has begun or ended since the last call."""
        alerts = []
        for cause, problems in self._problems.items():
            if problems and cause not in self._since and not self._is_quiet(cause):
                self._since[cause] = step
                self._worst[cause] = max(self._worst.get(cause, 0.0), _severity(problems))
                alerts.append(_begun(cause, problems, step))
            elif not problems and cause in self._since:
                alerts.append(_recovered(cause, step, self._since.pop(cause)))
                quiet_points = QUIET_POINTS.get(cause, self._quiet_points) << min(
                    self._times_ended[cause], MAX_DOUBLINGS
                )
                self._quiet_until[cause] = self._points + quiet_points
                self._times_ended[cause] += 1
        return alerts

    def _is_quiet(self, cause: Cause) -> bool:
        if self._points >= self._quiet_until.get(cause, 0) or self._streaks[cause] >= LASTING_POINTS:
            return False
        return _severity(self._problems[cause]) <= ESCALATION * self._worst[cause]


def _severity(problems: Mapping[str, Problem]) -> float:
    """Return the largest ratio of a value to its baseline; 0 if there is none."""
    return max(
        (abs(p.value / p.baseline) for p in problems.values() if p.value is not None and p.baseline), default=0.0
    )


def _begun(cause: Cause, problems: Mapping[str, Problem], step: int) -> Alert:
    name, problem = next(iter(problems.items()))
    others = ", ".join(islice((other for other in problems if other != name), MAX_METRICS_LISTED))
    return Alert(
        seq=0,
        time=now_ms(),
        step=step,
        title=problem.title[:250],
        text=f"also {others[:3500]}. {_ADVICE[cause]}" if others else _ADVICE[cause],
        level="error" if cause == "non-finite" else "warning",
        cause=cause,
        metric=name[:250],
        value=None if problem.value is None else json_number(problem.value),
        baseline=problem.baseline,
        since=step,
    )


def _recovered(cause: Cause, step: int, since: int) -> Alert:
    return Alert(
        seq=0,
        time=now_ms(),
        step=step,
        title=f"recovered: {_RECOVERED[cause]}",
        level="info",
        cause=cause,
        since=since,
        recovered=True,
    )
