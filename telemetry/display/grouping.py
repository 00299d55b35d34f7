"""Group metrics into charts, using only their declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from telemetry.metrics import Metric
from telemetry.units import with_unit

OVERALL = "overall"
"""Heading of the charts that are shown first."""
DETAILS = "details"
"""Heading of further charts whose values have a direction, such as other measures of the same errors."""
PROGRESS = "progress"
"""Heading of the charts whose values are neither better nor worse, such as the learning rate."""


class Chart(NamedTuple):
    """A chart: its title and the full names of its metrics."""

    title: str
    names: list[str]


def charts(metrics: Mapping[str, Metric]) -> dict[str, list[Chart]]:
    """Return charts keyed by heading; metrics with the same name and unit share a chart across streams.

    The charts of main metrics come first, under "overall". If no metric is declared as main, these are the charts of
    all metrics with a direction; without any, of all metrics. The heading of parts of the data is the name without the
    stream and without its last part: ``val/gfn1/E_rmse`` belongs to ``gfn1``. "details" and "progress" are last.
    Charts and metrics keep the order of declaration.
    """
    parts: dict[str, list[Chart]] = {}
    for (name, unit), names in _by_name_and_unit(metrics).items():
        heading, _, last = name.rpartition("/")
        labels = {metrics[full].label for full in names}
        # If the streams use different labels, only the name describes all of them.
        title = labels.pop() if len(labels) == 1 else ""
        parts.setdefault(heading, []).append(Chart(with_unit(title or last, unit), names))
    of_all_data = _by_importance(parts.pop("", []), metrics)
    first = {OVERALL: of_all_data.pop(OVERALL, [])}
    # A part of the data may have the name of a heading.
    found: dict[str, list[Chart]] = {}
    for group in (first, parts, of_all_data):
        for heading, group_charts in group.items():
            found.setdefault(heading, []).extend(group_charts)
    return {heading: group_charts for heading, group_charts in found.items() if group_charts}


def _by_name_and_unit(metrics: Mapping[str, Metric]) -> dict[tuple[str, str], list[str]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for full, metric in metrics.items():
        groups.setdefault((full.partition("/")[2], metric.unit), []).append(full)
    return groups


def _by_importance(found: list[Chart], metrics: Mapping[str, Metric]) -> dict[str, list[Chart]]:
    """Return the charts of metrics of all data by heading: OVERALL, DETAILS, PROGRESS."""
    main = [chart for chart in found if any(metrics[name].main for name in chart.names)]
    directed = [chart for chart in found if any(metrics[name].better or metrics[name].watch for name in chart.names)]
    overall = main or directed or found
    headings: dict[str, list[Chart]] = {OVERALL: overall, DETAILS: [], PROGRESS: []}
    # A metric belongs to one chart; sets, for runs with thousands of charts.
    first, of_direction = ({chart.names[0] for chart in group} for group in (overall, directed))
    for chart in found:
        if chart.names[0] not in first:
            headings[DETAILS if chart.names[0] in of_direction else PROGRESS].append(chart)
    return headings
