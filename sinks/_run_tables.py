"""What is shown of a run beside its curves: tables in Markdown."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from telemetry.sink_api import RunRecord

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|#])")
_SPACES = re.compile(r"\s+")


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
