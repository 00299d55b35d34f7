"""The best validation values as metrics of MLflow, ``best/val/E_rmse``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sinks._best_values import PREFIX, BestValues
from sinks.mlflow.batches import MetricPoint
from sinks.mlflow.names import MetricNames
from sinks.mlflow.tags import best_tag
from telemetry.sink_api import Record, RunRecord

_STEP = 0
"""MLflow shows the point with the highest step, and at the same step the newest. After a resume from an earlier
iteration, with iterations as steps, that would be a superseded value."""


class BestMetrics:
    """The best values of a run, compared with those that MLflow shows.

    Args:
        run: the newest run record.
        folder: the run folder.
        names: the MLflow names of the metrics.
        stored: the values that MLflow shows, by MLflow name.
    """

    def __init__(self, run: RunRecord, folder: Path, names: MetricNames, stored: Mapping[str, float]) -> None:
        self._run = run
        self._best = BestValues(run, folder)
        self._names = {full: names.name_of(f"{PREFIX}{full}") for full in self._best.names}
        self._shown = {full: stored.get(name, math.nan) for full, name in self._names.items()}

    def update(self, records: Sequence[Record]) -> tuple[list[MetricPoint], dict[str, str]]:
        """Add records, and return the points and tags that differ from those in MLflow; NaN if no value remains."""
        self._best.add(records)
        best = self._best.current()
        values = {full: best[full].value if full in best else math.nan for full in self._names}
        changed = {full: value for full, value in values.items() if not _is_equal(value, self._shown[full])}
        self._shown |= changed
        points = [MetricPoint(self._names[full], value, records[-1].time, _STEP) for full, value in changed.items()]
        return points, best_tag(best, self._run) if changed else {}


def _is_equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
