"""The declarations of metrics: those given when the run was opened, later ones, and those of names that appear."""

from __future__ import annotations

import re
from collections.abc import Mapping

from telemetry.metrics import UNDECLARED, Metric
from telemetry.units import factors

MAX_DESCRIPTION = 400_000
"""Maximum size of the declarations of names that appear, in bytes. A run record must fit into a line of the journal."""
_ENTRY = 80
"""Approximate size of a declaration without its name and its label, in bytes."""


def is_pattern(name: str) -> bool:
    """Return whether a key of declarations is a pattern, which contains ``*``, and not the name of a metric."""
    return "*" in name


def without_patterns(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the declarations of single metrics."""
    return {name: metric for name, metric in metrics.items() if not is_pattern(name)}


class Declarations:
    """Find the declaration of a metric and its conversion factor by full name. Not thread-safe.

    Args:
        metrics: the declarations; a key may be a pattern, in which ``*`` stands for any characters.
        known: the declarations of earlier attempts, which apply unless ``metrics`` has the same name.

    Raises:
        UnitError: a unit is unknown, or a source unit cannot be converted.
    """

    def __init__(self, metrics: Mapping[str, Metric], known: Mapping[str, Metric] | None = None) -> None:
        self._metrics = dict(known or {})
        # Names that have appeared have no unit to convert.
        self._factors = dict.fromkeys(self._metrics, 1.0)
        self._factors |= factors({name: metric for name, metric in self._metrics.items() if metric != UNDECLARED})
        self._patterns: list[tuple[re.Pattern[str], Metric, float]] = []
        self._given: set[str] = set()
        # They are in the run record of each further attempt, too.
        self._size = sum(_size(name, metric) for name, metric in self._metrics.items())
        for name in without_patterns(metrics):
            self._metrics.pop(name, None)
        self._earlier = set(self._metrics)
        self.declare(metrics)

    def __contains__(self, name: str) -> bool:
        return name in self._metrics

    def factor(self, name: str) -> float:
        """Return the conversion factor of a declared metric."""
        return self._factors[name]

    def given(self, stream: str) -> list[str]:
        """Return the names of the metrics that the caller has declared for a stream, without the stream."""
        return [name.removeprefix(f"{stream}/") for name in self._given if name.startswith(f"{stream}/")]

    def declare(self, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
        """Add declarations and patterns; return those of metrics that had none. The first declaration is kept.

        As when the run is opened, a declaration of an earlier attempt may be repeated with the same unit, for example
        to watch the metric again.

        Raises:
            UnitError: see the class.
        """
        found = factors(metrics)
        new = {name: metric for name, metric in without_patterns(metrics).items() if self._is_new(name, metric)}
        self._metrics |= new
        self._earlier -= new.keys()
        self._factors |= {name: found[name] for name in new}
        self._given.update(new)
        patterns = [(_compiled(name), metrics[name], found[name]) for name in metrics if is_pattern(name)]
        # The newest first.
        self._patterns = [*patterns, *self._patterns]
        return new

    def _is_new(self, name: str, metric: Metric) -> bool:
        known = self._metrics.get(name)
        return known is None or (name in self._earlier and known.unit == metric.unit)

    def matches(self, name: str) -> bool:
        """Return whether a pattern matches the full name of a metric."""
        return any(pattern.fullmatch(name) for pattern, _, _ in self._patterns)

    def find(self, name: str) -> tuple[Metric, float] | None:
        """Return the declaration and the factor for a name that appears; None if there are too many names.

        They are those of the first pattern that matches; without one, the unit is unknown.
        """
        if self._size + _ENTRY + len(name.encode()) > MAX_DESCRIPTION:
            return None
        return next(
            ((m, factor) for pattern, m, factor in self._patterns if pattern.fullmatch(name)), (UNDECLARED, 1.0)
        )

    def add(self, name: str, metric: Metric, factor: float) -> None:
        """Add the declaration of a name that has appeared."""
        self._metrics[name], self._factors[name] = metric, factor
        self._size += _size(name, metric)


def _size(name: str, metric: Metric) -> int:
    return _ENTRY + len(name.encode()) + len(metric.label.encode())


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
