"""Turn problems of individual metrics into alerts: for each cause, one when it begins and one when it ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice

from telemetry.alerts.rules import Problem
from telemetry.records import Alert, Cause, json_number, now_ms

ALWAYS_REPORTED: frozenset[Cause] = frozenset({"non-finite", "stalled"})
"""Causes that are reported each time they begin, however often that is."""
MAX_METRICS_LISTED = 20
"""Maximum number of further metrics with the same problem that an alert lists."""

_RECOVERED: Mapping[Cause, str] = {
    "non-finite": "all values are finite again",
    "spike": "no metric is far above its usual value anymore",
    "diverging": "the loss is close to its lowest level again",
    "unlabelled": "all metrics have values again",
    "apart": "loss and errors no longer move in opposite directions",
    "stalled": "points arrive again",
}


class ProblemTracker:
    """Keep the current problems of each cause, and turn their beginning and end into alerts.

    Once a cause has ended, it is not reported again for ``quiet_points`` points, unless it is in ``ALWAYS_REPORTED``.
    """

    def __init__(self, quiet_points: int) -> None:
        """Start without problems."""
        self._quiet_points = quiet_points
        self._problems: dict[Cause, dict[str, Problem]] = {}
        self._since: dict[Cause, int] = {}
        self._points = 0
        self._quiet_until: dict[Cause, int] = {}

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

    def changes(self, step: int) -> list[Alert]:
        """Return an alert for each cause that has begun or ended since the last call."""
        alerts = []
        for cause, problems in self._problems.items():
            if problems and cause not in self._since and self._points >= self._quiet_until.get(cause, 0):
                self._since[cause] = step
                alerts.append(_begun(cause, problems, step))
            elif not problems and cause in self._since:
                alerts.append(_recovered(cause, step, self._since.pop(cause)))
                if cause not in ALWAYS_REPORTED:
                    self._quiet_until[cause] = self._points + self._quiet_points
        return alerts


def _begun(cause: Cause, problems: Mapping[str, Problem], step: int) -> Alert:
    name, problem = next(iter(problems.items()))
    others = ", ".join(islice((other for other in problems if other != name), MAX_METRICS_LISTED))
    return Alert(
        seq=0,
        time=now_ms(),
        step=step,
        title=problem.title[:250],
        text=f"also {others}"[:4000] if others else "",
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
