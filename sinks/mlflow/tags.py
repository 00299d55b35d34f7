"""What is shown of a run in MLflow beside its curves: parameters and tags."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from sinks import _run_tables
from sinks.mlflow.names import Names, key
from telemetry.sink_api import RunRecord

PARAM_LIMIT, TAG_LIMIT = 6000, 8000
"""Characters that MLflow takes as a value."""
NOTE = "mlflow.note.content"
KEY = "telemetry.key"
"""The tag that a run is found by."""
SEQ = "telemetry.seq"
"""The tag with the highest sequence number that MLflow holds."""
ATTEMPT = "telemetry.attempt"

_CUT = "… (cut)"


def run_key(run: RunRecord) -> str:
    """Give a text that is the same for all attempts of a run, and another for a later run of the same name."""
    return hashlib.sha256(f"{run.started} {run.run_id}".encode()).hexdigest()[:32]


def params(run: RunRecord) -> dict[str, str]:
    """Give the run's parameters by dotted name; names that fall together are told apart by a number."""
    out: dict[str, str] = {}
    for dotted, value in _run_tables.leaves(run.params):
        name = first = key(dotted, 240)
        count = 1
        while name in out:
            count += 1
            name = f"{first}:{count}"
        out[name] = cut(value, PARAM_LIMIT)
    return out


def first_tags(run: RunRecord, folder: Path) -> dict[str, str]:
    """Give the tags that a run is created with: what it is found by, whose it is and where it comes from."""
    tags = {
        KEY: run_key(run),
        "telemetry.run": cut(run.run_id, TAG_LIMIT),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": cut(str(folder), TAG_LIMIT),
        NOTE: _note(run),
    }
    # Whoever delivers may be another one than who trained; the folder is the trainer's.
    with contextlib.suppress(KeyError, OSError):
        tags["mlflow.user"] = folder.owner()
    return tags


def tags(run: RunRecord, names: Names) -> dict[str, str]:
    """Give the tags that describe the newest attempt, and the metrics."""
    out = {"telemetry.every": str(run.every), "host": run.host}
    out |= {f"version.{name}": version for name, version in run.versions.items()}
    if run.project:
        out["project"] = run.project
    for metric, what in run.metrics.items():
        name = names.name(metric)
        if what.unit != "1":
            out[f"unit.{name}"] = what.unit
        if what.label:
            out[f"label.{name}"] = what.label
    out |= {f"name.{name}": metric for name, metric in names.changed().items()}
    return {key(name): cut(value, TAG_LIMIT) for name, value in out.items() if value}


def cut(text: str, limit: int) -> str:
    """Give the text, cut where it is too long, so that this can be seen."""
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT


def _note(run: RunRecord) -> str:
    text = f"{_run_tables.about(run)}\n\n{_run_tables.units(run)}"
    if len(text) <= TAG_LIMIT:
        return text
    # Half a row would spoil the table.
    return f"{text[: TAG_LIMIT - 100].rpartition(chr(10))[0]}\n\n{_CUT}"
