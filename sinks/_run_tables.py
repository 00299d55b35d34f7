"""Markdown tables that describe a run next to its curves."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from telemetry.sink_api import RunRecord, charts

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#])")
_WHITESPACE = re.compile(r"\s+")


def run_table(run: RunRecord) -> str:
    """Return a table with the names, start, attempt, host and package versions of the run."""
    rows = [
        ("name", run.name),
        ("run", run.run_id),
        ("project", run.project or ""),
        ("started", _utc(run.started)),
        ("attempt", str(run.attempt)),
        ("attempt on", run.host),
        ("a point every", f"{run.every} iterations"),
        *run.versions.items(),
    ]
    return markdown_table(("run", ""), [row for row in rows if row[1]])


def parameter_table(run: RunRecord) -> str:
    """Return a table of the run's parameters with dotted names."""
    return markdown_table(("parameter", "value"), flatten_params(run.params))


def unit_table(run: RunRecord) -> str:
    """Return a table of the metrics with their display units, source units and labels."""
    rows = ((name, m.unit, m.source_unit, m.label) for name, m in run.metrics.items())
    return markdown_table(("metric", "unit", "published in", "what"), rows)


def metric_table(run: RunRecord) -> str:
    """Return a table of the metrics with units, labels and streams: a row for each name, the most important first."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    ordered = [name for group in charts(run.metrics).values() for chart in group for name in chart.names]
    for full in ordered:
        metric = run.metrics[full]
        stream, _, name = full.partition("/")
        rows.setdefault((name or full, metric.unit, metric.label), []).append(stream)
    cells = ((*row[:1], "" if row[1] == "1" else row[1], row[2], ", ".join(streams)) for row, streams in rows.items())
    return markdown_table(("metric", "unit", "what", "streams"), cells)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells render as the given text, with white space collapsed."""
    lines = [head, ["---"] * len(head), *([escape_markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Return Markdown that renders as the text, on one line."""
    return _MARKDOWN.sub(r"\\\1", html.escape(_WHITESPACE.sub(" ", text), quote=False))


def flatten_params(params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield nested parameters as pairs of dotted name and text."""
    for name, value in leaves(params):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def leaves(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested parameters as pairs of dotted name and value; an empty mapping is a value."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _utc(ms: int) -> str:
    # A wrong clock may be beyond the year 9999, the last year supported by datetime.
    return str(np.datetime_as_string(np.datetime64(ms, "ms"), unit="s", timezone="UTC"))
