"""What is shown of a run beside its curves: tables in Markdown, and which curves share a chart."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from telemetry import Metric, RunRecord

OVERALL = "overall"
"""The heading over charts of metrics whose name has no part before the last."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#])")
_SPACES = re.compile(r"\s+")


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


def with_unit(text: str, unit: str) -> str:
    """Add the unit in brackets, if there is one."""
    return text if unit == "1" else f"{text} [{unit}]"


def about(run: RunRecord) -> str:
    """Give a table of what the run is and where it ran."""
    rows = [
        ("name", run.name),
        ("run", run.run_id),
        ("project", run.project or ""),
        ("started", _date(run.started)),
        ("attempt", str(run.attempt)),
        ("attempt on", run.host),
        ("a point every", f"{run.every} iterations"),
        *run.versions.items(),
    ]
    return table(("run", ""), [row for row in rows if row[1]])


def parameters(run: RunRecord) -> str:
    """Give a table of the run's parameters by dotted name."""
    return table(("parameter", "value"), leaves(run.params))


def units(run: RunRecord) -> str:
    """Give a table of the metrics with the unit in which each is shown, and that in which it was published."""
    rows = ((name, m.unit, m.source_unit, m.label) for name, m in run.metrics.items())
    return table(("metric", "unit", "published in", "what"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a Markdown table whose cells show exactly what is given, but for runs of white space."""
    lines = [head, ["---"] * len(head), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Give Markdown that shows the text on one line."""
    return _MARKDOWN.sub(r"\\\1", html.escape(_SPACES.sub(" ", text), quote=False))


def leaves(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give nested parameters by dotted name, each as a text."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _date(ms: int) -> str:
    # datetime ends at the year 9999; a damaged clock need not.
    return str(np.datetime_as_string(np.datetime64(ms, "ms"), unit="s", timezone="UTC"))
