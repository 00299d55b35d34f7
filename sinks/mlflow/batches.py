"""Conversion of records to metrics and tags, grouped into calls of ``log_batch``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sinks.mlflow.names import INFINITY_SUFFIX, MAX_TAG_LENGTH, MetricNames
from sinks.mlflow.tags import truncate
from telemetry.sink_api import Alert, Record, Resumed, Scalars

MAX_METRICS_PER_CALL, MAX_TAGS_PER_CALL = 980, 20
"""MLflow accepts 1000 items per call, and splits larger calls in an unspecified order."""
MAX_METRIC_BYTES_PER_CALL = 900_000
"""MLflow accepts 1 MB per call."""
_METRIC_OVERHEAD_BYTES = 120
"""Size of the JSON of a metric without its name."""


class MetricPoint(NamedTuple):
    """One value of a metric, with the arguments of MLflow's ``Metric``: ``timestamp`` in ms, ``step`` the iteration."""

    key: str
    value: float
    timestamp: int
    step: int


class Batch(NamedTuple):
    """The content of one call; all records up to the sequence number ``last_seq`` are complete once it returns."""

    points: list[MetricPoint]
    tags: dict[str, str]
    last_seq: int


def split_into_batches(records: Iterable[Record], names: MetricNames, last_seq: int) -> Iterator[Batch]:
    """Combine records into as few calls as possible; a record is divided only if it alone exceeds the limits.

    Args:
        records: the records, in order.
        names: the MLflow names of the metrics.
        last_seq: sequence number of the record that precedes ``records``.

    Raises:
        SinkRejected: an undeclared metric would have the same MLflow name as another one.
    """
    points: list[MetricPoint] = []
    tags: dict[str, str] = {}
    size = 0
    for record in records:
        new = _points(record, names)
        new_size = sum(map(_json_bytes, new))
        new_tags = _tags(record)
        if (points or tags) and (
            len(points) + len(new) > MAX_METRICS_PER_CALL
            or size + new_size > MAX_METRIC_BYTES_PER_CALL
            or len(tags.keys() | new_tags) > MAX_TAGS_PER_CALL
        ):
            yield Batch(points, tags, last_seq)
            points, tags, size = [], {}, 0
        while len(new) > MAX_METRICS_PER_CALL or new_size > MAX_METRIC_BYTES_PER_CALL:
            count = min(MAX_METRICS_PER_CALL, max(1, len(new) * MAX_METRIC_BYTES_PER_CALL // new_size))
            yield Batch(new[:count], {}, last_seq)
            new = new[count:]
            new_size = sum(map(_json_bytes, new))
        points, size, last_seq = [*points, *new], size + new_size, record.seq
        tags |= new_tags
    yield Batch(points, tags, last_seq)


def _points(record: Record, names: MetricNames) -> list[MetricPoint]:
    if not isinstance(record, Scalars):
        return []
    points = []
    for metric, value in record.items():
        name = names.name_of(metric)
        if math.isinf(value):
            # MLflow would replace it with 1.8e308, which would also become the limit of the chart's axis.
            points.append(MetricPoint(name, math.nan, record.time, record.step))
            sign = math.copysign(1.0, value)
            points.append(MetricPoint(f"{name}{INFINITY_SUFFIX}", sign, record.time, record.step))
        else:
            points.append(MetricPoint(name, value, record.time, record.step))
    return points


def _tags(record: Record) -> dict[str, str]:
    if isinstance(record, Resumed):
        return {f"telemetry.resumed.{record.attempt}": f"from iteration {record.step}"}
    if isinstance(record, Alert):
        text = f"{record.level} at iteration {record.step}: {record.title}"
        return {"telemetry.alert": truncate(f"{text}: {record.text}" if record.text else text, MAX_TAG_LENGTH)}
    return {}


def _json_bytes(point: MetricPoint) -> int:
    return len(json.dumps(point.key)) + _METRIC_OVERHEAD_BYTES
