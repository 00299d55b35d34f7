"""The rule that finds metrics without values."""

from __future__ import annotations

from collections.abc import Mapping

from telemetry.alerts.rules import Problem, Problems

MIN_PRESENT = 5
"""Number of points with a value after which the absence of the metric can be a problem."""
MAX_CHANCE = 1e-4
"""A gap is a problem if its probability is lower than this, given how often the metric was missing before."""


class MissingValues:
    """Find metrics that used to have values and have none now, for example because a label or a fidelity is missing.

    A rare fidelity is often missing, so absences are compared with how often the metric was missing before.
    """

    def __init__(self) -> None:
        self._presence: dict[str, dict[str, Presence]] = {}

    def check(self, stream: str, values: Mapping[str, float]) -> tuple[set[str], Problems]:
        """Compare a point with the earlier ones of its stream.

        Args:
            stream: the stream of the point.
            values: the values of the point.

        Returns:
            All metrics that the stream had before this point, and the problems among them.
        """
        presence = self._presence.setdefault(stream, {})
        earlier = set(presence)
        for name in values:
            presence.setdefault(name, Presence())
        for name, metric in presence.items():
            metric.count(present=name in values)
        found = {
            name: Problem(
                f"no labels: {name} has had no value for {_points(metric.absent)}; it had values in"
                f" {metric.present} of {_points(metric.points)} before"
            )
            for name, metric in presence.items()
            if metric.is_missing()
        }
        return earlier, found


class Presence:
    """How often a metric has had a value.

    Attributes:
        points: number of points from the first to the last one with a value.
        present: number of them that had a value.
        absent: number of points since the last one with a value.
        longest: the longest earlier gap, in points.
    """

    def __init__(self) -> None:
        """Start without points."""
        self.points = self.present = self.absent = self.longest = 0

    def count(self, *, present: bool) -> None:
        """Count a point with or without a value."""
        if not present:
            self.absent += 1
            return
        self.points += self.absent + 1
        self.present += 1
        self.longest = max(self.longest, self.absent)
        self.absent = 0

    def is_missing(self) -> bool:
        """Return whether the current gap is too long to be chance.

        The probability of an absence is estimated with Jeffreys' prior (Brown, Cai and DasGupta, Stat. Sci. 16, 101
        (2001)), and absences are independent of each other, or in gaps up to twice as long as before.
        """
        if self.absent <= 2 * self.longest:
            return False
        rate = (self.points - self.present + 0.5) / (self.points + 1)
        return self.present >= MIN_PRESENT and rate**self.absent < MAX_CHANCE


def _points(number: int) -> str:
    return f"{number:,} point{'' if number == 1 else 's'}"
