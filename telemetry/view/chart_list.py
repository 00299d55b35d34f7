"""Which charts the page has, and which metrics of which run belong to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from telemetry.display.grouping import charts, ordered
from telemetry.metrics import SYSTEM, Direction, direction, stream_of
from telemetry.view.run_entry import RunEntry


@dataclass(frozen=True, kw_only=True)
class ChartSpec:
    """A chart of one quantity in one unit.

    Attributes:
        heading: heading of the chart (see ``telemetry.display.grouping.charts``).
        title: the quantity with its unit.
        unit: the unit.
        better: which values are better; None if neither.
        names: full names of the metrics, by key of the run.
    """

    heading: str
    title: str
    unit: str
    better: Direction | None
    names: dict[str, list[str]] = field(default_factory=dict)


def chart_specs(entries: Sequence[RunEntry]) -> list[ChartSpec]:
    """Return the charts of all runs, sorted by heading in the order of ``charts``.

    Runs share a chart if the heading, the name without the stream, and the unit are the same; labels may differ.
    """
    found: dict[tuple[str, str, str], ChartSpec] = {}
    for entry in entries:
        for heading, group in charts(entry.metrics).items():
            for title, names in group:
                metric = entry.metrics[names[0]]
                key = (heading, names[0].partition("/")[2], metric.unit)
                if key not in found:
                    better = direction(names[0], metric)
                    found[key] = ChartSpec(heading=heading, title=title, unit=metric.unit, better=better)
                found[key].names[entry.key] = names
    order = headings(list(found.values()))
    return sorted(found.values(), key=lambda spec: order.index(spec.heading))


def headings(specs: Sequence[ChartSpec]) -> list[str]:
    """Return the headings: "overall" first, then parts of the data, "details" and "progress"."""
    return ordered(spec.heading for spec in specs)


def streams(specs: Sequence[ChartSpec]) -> list[str]:
    """Return the streams of all charts, in order of declaration, except that of the system, which is always shown."""
    found = dict.fromkeys(stream_of(n) for spec in specs for names in spec.names.values() for n in names)
    return [stream for stream in found if stream != SYSTEM]
