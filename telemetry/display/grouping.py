"""Group metrics into charts, using only their declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from telemetry.metrics import Metric
from telemetry.units import with_unit

OVERALL = "overall"
"""Heading of the charts of metrics whose name, without the stream, has a single part."""


class Chart(NamedTuple):
    """A chart: its title and the full names of its metrics."""

    title: str
    names: list[str]


def charts(metrics: Mapping[str, Metric]) -> dict[str, list[Chart]]:
    """Return charts keyed by heading; metrics with the same name and unit share a chart across streams.

    The heading is the name without the stream and without its last part: ``val/gfn1/E_rmse`` belongs to ``gfn1``.
    Headings, charts and metrics keep the order of declaration.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for full, metric in metrics.items():
        groups.setdefault((full.partition("/")[2], metric.unit), []).append(full)
    headings: dict[str, list[Chart]] = {}
    for (name, unit), names in groups.items():
        heading, _, last = name.rpartition("/")
        labels = {metrics[full].label for full in names}
        # If the streams use different labels, only the name describes all of them.
        title = labels.pop() if len(labels) == 1 else ""
        headings.setdefault(heading or OVERALL, []).append(Chart(with_unit(title or last, unit), names))
    return headings
