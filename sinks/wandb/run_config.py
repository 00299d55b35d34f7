"""What W&B is told of a run: its id there, and its configuration."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from telemetry.sink_api import RunRecord

_ID_NAME = 64


def run_id(run: RunRecord) -> str:
    """Give an id that W&B takes, and that another run of the same name does not share."""
    told = re.sub(r"[^A-Za-z0-9_-]+", "-", run.run_id).strip("-")[:_ID_NAME]
    made = hashlib.sha256(f"{run.run_id}/{run.started}".encode()).hexdigest()[:8]
    return f"{told}-{made}" if told else made


def config(run: RunRecord) -> dict[str, Any]:
    """Give the configuration: the parameters, and what the metrics and the run are."""
    about = {
        "id": run.run_id,
        "every": run.every,
        "started": run.started,
        "attempt": run.attempt,
        "host": run.host,
        "versions": run.versions,
    }
    units = {name: metric.unit for name, metric in run.metrics.items() if metric.unit != "1"}
    labels = {name: metric.label for name, metric in run.metrics.items() if metric.label}
    return {**run.params, "telemetry/run": about, "telemetry/units": units, "telemetry/labels": labels}
