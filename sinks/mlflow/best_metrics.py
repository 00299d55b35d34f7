"""The best validation values so far as metrics of MLflow, ``best/val/E_rmse``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sinks._best_values import PREFIX, BestValues, is_validation
from sinks.mlflow.batches import MAX_METRICS_PER_CALL, MetricPoint
from sinks.mlflow.names import MetricNames
from sinks.mlflow.tags import best_tag
from telemetry.sink_api import Record, Resumed, RunRecord


class BestMetrics:
    """The points of the best values: one for each validation and each resume.

    As the value of a metric, MLflow shows the point with the highest step, and at the same step the newest. The step is
    therefore the highest iteration so far, and times increase: after a resume from an earlier iteration, the points of
    the new attempt replace those of the earlier one. Each point depends only on the journal, so writing it again
    changes nothing.

    Args:
        run: the newest run record.
        folder: the run folder.
        names: the MLflow names of the metrics, extended by those of the best values.
    """

    def __init__(self, run: RunRecord, folder: Path, names: MetricNames) -> None:
        self._best = BestValues(run, folder)
        self._mlflow_names = names
        self._pending: list[MetricPoint] = []
        self.declare(run)

    def declare(self, run: RunRecord) -> None:
        """Apply the declarations of a newer run record."""
        self._run = run
        self._best.declare(run)
        self._names = {full: self._mlflow_names.name_of(f"{PREFIX}{full}") for full in self._best.names}

    def add(self, records: Sequence[Record]) -> None:
        """Add the next records; those added before are ignored."""
        for record in records:
            if self._best.add(record) and (is_validation(record) or isinstance(record, Resumed)):
                best = self._best.current()
                # A resume may have superseded all values.
                values = {full: best[full].value if full in best else math.nan for full in self._names}
                self._pending += [
                    MetricPoint(self._names[full], value, self._best.time, self._best.last_step)
                    for full, value in values.items()
                    if full in best or isinstance(record, Resumed)
                ]

    def pending(self) -> Iterator[tuple[list[MetricPoint], dict[str, str]]]:
        """Yield the points that are not stored yet, in portions for one call, and the tags that belong to each."""
        newest = best_tag(self._best.current(), self._run)
        for first in range(0, len(self._pending), MAX_METRICS_PER_CALL):
            yield self._pending[first : first + MAX_METRICS_PER_CALL], newest

    def clear_pending(self) -> None:
        """Note that all pending points are stored."""
        self._pending.clear()
