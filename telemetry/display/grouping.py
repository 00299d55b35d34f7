"""Group metrics into charts, using only their declarations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from telemetry.metrics import SYSTEM, Metric, direction, stream_of
from telemetry.units import with_unit

OVERALL = "overall"
"""Heading of the charts that are shown first."""
DETAILS = "details"
"""Heading of further charts whose values have a direction, such as other measures of the same errors."""
PROGRESS = "progress"
"""Heading of the charts whose values are neither better nor worse, such as the learning rate."""
_POSITIONS = {OVERALL: 0, DETAILS: 2, PROGRESS: 3, SYSTEM: 4}
_PART = 1
"""Position of all parts of the data."""


class Chart(NamedTuple):
    """A chart: its title and the full names of its metrics."""

    title: str
    names: list[str]


def charts(metrics: Mapping[str, Metric]) -> dict[str, list[Chart]]:
    """Return charts keyed by heading; metrics with the same name and unit share a chart across streams.

    The charts of main metrics come first, under "overall". If no metric is declared as main, these are the charts of
    all metrics whose direction is declared, and of those watched; without any, of all metrics. The heading of parts of
    the data is the name without the stream and its last part: ``val/gfn1/E_rmse`` belongs to ``gfn1``. "details",
    "progress" and "system", the metrics of the stream of this name, are last. Charts and metrics keep the order of
    declaration.
    """
    parts: dict[str, list[Chart]] = {}
    system: list[Chart] = []
    for name, unit, names in _by_name_and_unit(metrics):
        heading, _, last = name.rpartition("/")
        labels = {metrics[full].label for full in names}
        # If the streams use different labels, only the name describes all of them.
        title = labels.pop() if len(labels) == 1 else ""
        is_system = stream_of(names[0]) == SYSTEM
        chart = Chart(with_unit(title or (name if is_system else last), unit), names)
        (system if is_system else parts.setdefault(heading, [])).append(chart)
    of_all_data = _by_importance(parts.pop("", []), metrics)
    first = {OVERALL: of_all_data.pop(OVERALL, [])}
    # A part of the data may have the name of a heading.
    found: dict[str, list[Chart]] = {}
    for group in (first, parts, of_all_data, {SYSTEM: system}):
        for heading, group_charts in group.items():
            found.setdefault(heading, []).extend(group_charts)
    return {heading: group_charts for heading, group_charts in found.items() if group_charts}


def ordered(headings: Iterable[str]) -> list[str]:
    """Return the different headings of several runs in the order of ``charts``."""
    return sorted(dict.fromkeys(headings), key=lambda heading: _POSITIONS.get(heading, _PART))


def _by_name_and_unit(metrics: Mapping[str, Metric]) -> list[tuple[str, str, list[str]]]:
    """Return the metrics that share a chart; those of the system share none with other streams."""
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for full, metric in metrics.items():
        stream, _, name = full.partition("/")
        groups.setdefault((name, metric.unit, stream == SYSTEM), []).append(full)
    return [(name, unit, names) for (name, unit, _), names in groups.items()]


def _by_importance(found: list[Chart], metrics: Mapping[str, Metric]) -> dict[str, list[Chart]]:
    """Return the charts of metrics of all data by heading: OVERALL, DETAILS, PROGRESS."""
    main = [chart for chart in found if any(metrics[name].main for name in chart.names)]
    # Metrics of version 0.1 declare no direction: those whose direction only their names tell would be too many.
    declared = [chart for chart in found if any(metrics[name].better or metrics[name].watch for name in chart.names)]
    overall = main or declared or found
    headings: dict[str, list[Chart]] = {OVERALL: overall, DETAILS: [], PROGRESS: []}
    # A metric belongs to one chart; a set, for runs with thousands of charts.
    first = {chart.names[0] for chart in overall}
    for chart in found:
        if chart.names[0] not in first:
            has_direction = any(direction(name, metrics[name]) for name in chart.names)
            headings[DETAILS if has_direction else PROGRESS].append(chart)
    return headings
