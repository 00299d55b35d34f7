"""Which curves share a chart, and what stands over it; told from the declared metrics alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from telemetry.metrics import Metric
from telemetry.units import with_unit

OVERALL = "overall"
"""The heading over charts of metrics whose name has no part before the last."""


class Chart(NamedTuple):
    """One chart: its title, and the full names of the metrics in it."""

    title: str
    names: list[str]


def charts(metrics: Mapping[str, Metric]) -> dict[str, list[Chart]]:
    """Put what the streams call by one name, in one unit, on one chart; give the charts by heading.

    The heading is the name's part before the last: ``val/gfn1/E_rmse`` is under ``gfn1``. Everything keeps the order
    of its declaration.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for full, metric in metrics.items():
        groups.setdefault((full.partition("/")[2], metric.unit), []).append(full)
    headings: dict[str, list[Chart]] = {}
    for (name, unit), names in groups.items():
        heading, _, last = name.rpartition("/")
        labels = {metrics[full].label for full in names}
        # Streams that describe it in different words have only the name in common.
        title = labels.pop() if len(labels) == 1 else ""
        headings.setdefault(heading or OVERALL, []).append(Chart(with_unit(title or last, unit), names))
    return headings
