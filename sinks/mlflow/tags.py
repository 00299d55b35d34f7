"""Parameters and tags that describe a run in MLflow."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

from sinks import _run_tables
from sinks._best_values import Best
from sinks.mlflow.names import MAX_PARAM_LENGTH, MAX_TAG_LENGTH, MetricNames, valid_name
from telemetry.sink_api import RunRecord, with_unit

DESCRIPTION_TAG = "mlflow.note.content"
DESCRIPTION_CHECKSUM_TAG = "telemetry.note"
"""The tag with the checksum of the description, by which one that the user has edited is recognized."""
BEST_TAG = "telemetry.best"
"""The tag with the best validation values and their iterations."""
RUN_KEY_TAG = "telemetry.key"
"""The tag by which a run is found."""
SEQ_TAG = "telemetry.seq"
"""The tag that holds the highest sequence number stored in MLflow."""
ATTEMPT_TAG = "telemetry.attempt"

_MAX_PARAM_NAME_LENGTH = 240
"""Leaves room for the number that distinguishes equal names."""
_TRUNCATION_MARK = "… (cut)"


def run_key(run: RunRecord) -> str:
    """Return a key that is the same for all attempts of a run, but differs for a later run with the same name."""
    return hashlib.sha256(f"{run.started} {run.run_id}".encode()).hexdigest()[:32]


def params(run: RunRecord) -> dict[str, str]:
    """Return the run's parameters, keyed by dotted name; parameters that would have the same name are numbered."""
    out: dict[str, str] = {}
    for dotted, value in _run_tables.flatten_params(run.params):
        name = first = valid_name(dotted, _MAX_PARAM_NAME_LENGTH)
        count = 1
        while name in out:
            count += 1
            name = f"{first}:{count}"
        out[name] = truncate(value, MAX_PARAM_LENGTH)
    return out


def creation_tags(run: RunRecord, folder: Path) -> dict[str, str]:
    """Return the tags of a new run: its key, owner and source."""
    tags = {
        RUN_KEY_TAG: run_key(run),
        "telemetry.run": truncate(run.run_id, MAX_TAG_LENGTH),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": truncate(str(folder), MAX_TAG_LENGTH),
    }
    # Delivery may run as another user; the folder is owned by the user who trained.
    with contextlib.suppress(KeyError, OSError):
        tags["mlflow.user"] = folder.owner()
    return tags


def attempt_tags(run: RunRecord, names: MetricNames) -> dict[str, str]:
    """Return the tags that describe the newest attempt, and the original names of renamed metrics."""
    out = {"telemetry.every": str(run.every), "host": run.host}
    out |= {f"version.{name}": version for name, version in run.versions.items()}
    if run.project:
        out["project"] = run.project
    out |= {f"name.{name}": metric for name, metric in names.renamed().items()}
    return {valid_name(name): truncate(value, MAX_TAG_LENGTH) for name, value in out.items() if value}


def description_tags(run: RunRecord, stored: Mapping[str, str]) -> dict[str, str]:
    """Return the tags with the description of the newest attempt; empty if the stored one is not that of the sink.

    Runs of version 0.1 keep theirs, and with it the tags ``unit.<metric>`` and ``label.<metric>``.
    """
    shown = stored.get(DESCRIPTION_TAG)
    if shown is not None and stored.get(DESCRIPTION_CHECKSUM_TAG) != _checksum(shown):
        return {}
    text = _description(run)
    return {DESCRIPTION_TAG: text, DESCRIPTION_CHECKSUM_TAG: _checksum(text)}


def best_tag(best: Mapping[str, Best], run: RunRecord) -> dict[str, str]:
    """Return the tag with the best values and their iterations."""
    texts = (
        f"{with_unit(name, run.metrics[name].unit)} {value:.6g} at iteration {step}"
        for name, (value, step) in best.items()
    )
    return {BEST_TAG: truncate("; ".join(texts), MAX_TAG_LENGTH)}


def truncate(text: str, max_length: int) -> str:
    """Return the text, truncated and marked as such if it is longer than ``max_length`` characters."""
    return text if len(text) <= max_length else text[: max_length - len(_TRUNCATION_MARK)] + _TRUNCATION_MARK


def _description(run: RunRecord) -> str:
    text = f"{_run_tables.run_table(run)}\n\n{_run_tables.metric_table(run)}"
    if len(text) <= MAX_TAG_LENGTH:
        return text
    # Part of a row would break the table.
    return f"{text[: MAX_TAG_LENGTH - 100].rpartition(chr(10))[0]}\n\n{_TRUNCATION_MARK}"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
