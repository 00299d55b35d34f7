"""From records to calls of ``log_batch``: which metrics and tags go together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sinks.mlflow.names import INFINITE, Names
from sinks.mlflow.tags import TAG_LIMIT, cut
from telemetry.sink_api import Alert, Record, Resumed, Scalars

METRICS, TAGS = 980, 20
"""In one call: MLflow takes 1000 things, and splits what is more in ways of its own."""
BYTES = 900_000
"""Of one call's metrics: MLflow takes 1 MB."""
_FRAME = 120
"""Bytes of a metric's JSON beside its name."""


class Value(NamedTuple):
    """One value of a metric, as MLflow's ``Metric`` takes it."""

    key: str
    value: float
    timestamp: int
    step: int


class Batch(NamedTuple):
    """What goes into one call. ``last`` is the number of the last record that is whole when it has been taken."""

    values: list[Value]
    tags: dict[str, str]
    last: int


def batches(records: Iterable[Record], names: Names, last: int) -> Iterator[Batch]:
    """Put records together; one is split only if it alone is too much for a call.

    Args:
        records: in order.
        names: of the metrics.
        last: the number of the record before.

    Raises:
        SinkRejected: a metric that was not declared has the name of another in MLflow.
    """
    values: list[Value] = []
    tags: dict[str, str] = {}
    size = 0
    for record in records:
        new = _values(record, names)
        new_size = sum(map(_size, new))
        new_tags = _tags(record)
        full = len(values) + len(new) > METRICS or size + new_size > BYTES or len(tags.keys() | new_tags) > TAGS
        if full and (values or tags):
            yield Batch(values, tags, last)
            values, tags, size = [], {}, 0
        while len(new) > METRICS or new_size > BYTES:
            count = min(METRICS, max(1, len(new) * BYTES // new_size))
            yield Batch(new[:count], {}, last)
            new = new[count:]
            new_size = sum(map(_size, new))
        values, size, last = [*values, *new], size + new_size, record.seq
        tags |= new_tags
    yield Batch(values, tags, last)


def _values(record: Record, names: Names) -> list[Value]:
    if not isinstance(record, Scalars):
        return []
    out = []
    for metric, value in record.items():
        name = names.name(metric)
        if math.isinf(value):
            # MLflow would make 1.8e308 of it, and of the chart's axis.
            out.append(Value(name, math.nan, record.time, record.step))
            out.append(Value(f"{name}{INFINITE}", math.copysign(1.0, value), record.time, record.step))
        else:
            out.append(Value(name, value, record.time, record.step))
    return out


def _tags(record: Record) -> dict[str, str]:
    if isinstance(record, Resumed):
        return {f"telemetry.resumed.{record.attempt}": f"from iteration {record.step}"}
    if isinstance(record, Alert):
        text = f"{record.level} at iteration {record.step}: {record.title}"
        return {"telemetry.alert": cut(f"{text}: {record.text}" if record.text else text, TAG_LIMIT)}
    return {}


def _size(value: Value) -> int:
    return len(json.dumps(value.key)) + _FRAME
