"""The records that the checks write, and the points that a backend must show for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from telemetry.metrics import Metric
from telemetry.records import SCHEMA, Record, Resumed, RunRecord, RunUpdate, Scalars

STARTED = 1_700_000_000_000
"""Start of the test runs, in ms since 1970."""

_UNITS = {"loss": "1", "E_rmse": "kcal/mol", "F_rmse": "kcal/mol/Å", "q_rmse": "e"}
ODD_NAMES = (
    "fid 1/E_rmse",
    "wB97M-V(D3)/F_rmse",
    "r²SCAN/Å/q_rmse",
    "a.b/loss",
    "x=1,y/loss",
    "[0]/100%/loss",
    "'quoted\"/loss",
    "#/F_rmse",
)
"""Metric names that contain unusual fidelity names."""
METRICS = {
    f"{stream}/{name}": Metric(unit=_UNITS[name.rpartition("/")[2]], label=name)
    for stream in ("train", "train_window", "train_epoch", "val")
    for name in (*_UNITS, *ODD_NAMES)
}


class Point(NamedTuple):
    """A point of a curve, as shown by a backend.

    Attributes:
        name: full name of the metric, ``stream/metric``.
        step: the iteration.
        value: the value in ``unit``.
        time: the time in ms since 1970.
        unit: the unit shown for this metric; "1" if there is none.
    """

    name: str
    step: int
    value: float
    time: int
    unit: str = "1"


def run_record(run_id: str = "water", **fields: Any) -> RunRecord:
    """Return a run record that declares the metrics of the tests; ``fields`` override its fields."""
    given: dict[str, Any] = {
        "seq": 0,
        "time": STARTED,
        "schema": SCHEMA,
        "name": run_id,
        "attempt": 1,
        "every": 10,
        "started": STARTED,
        "metrics": METRICS,
        "params": {"seed": 7, "optimizer": {"lr": 0.001}},
    }
    return RunRecord(run_id=run_id, **given | fields)


def scalars(seq: int, step: int | None = None, stream: str = "train", **values: float) -> Scalars:
    """Return a record, by default at iteration 10·seq with a loss of 1/seq, 1001 ms after the previous one."""
    return Scalars(
        seq=seq,
        time=STARTED + 1001 * (seq % 10**9),
        stream=stream,
        step=10 * seq if step is None else step,
        values=values or {"loss": 1 / seq},
    )


def resumed(seq: int, step: int, attempt: int = 2) -> Resumed:
    """Return the record of an attempt that continues after iteration ``step``."""
    return Resumed(seq=seq, time=STARTED + 1001 * (seq % 10**9), step=step, attempt=attempt)


def sample(first: int, last: int) -> list[Record]:
    """Return records ``first`` to ``last`` with three values each; every third one belongs to another stream."""
    return [
        scalars(seq, stream="train" if seq % 3 else "val", loss=1 / seq, E_rmse=100 / seq, F_rmse=seq / 7)
        for seq in range(first, last + 1)
    ]


def points_of(records: Iterable[Record], metrics: dict[str, Metric] = METRICS) -> list[Point]:
    """Return the points that the records contain, in order."""
    records = list(records)
    late = {name: metric for r in records if isinstance(r, RunUpdate) for name, metric in r.metrics.items()}
    return [
        Point(name, record.step, value, record.time, (late | metrics)[name].unit)
        for record in records
        if isinstance(record, Scalars)
        for name, value in record.items()
    ]


def difference(found: Iterable[Point], expected: Iterable[Point]) -> str:
    """Return the first difference between two sets of curves, as a clause; empty if they are equal."""
    have, want = _curves(found), _curves(expected)
    for name in want:
        text = _difference(name, have.get(name, []), want[name])
        if text:
            return text
    unexpected = sorted(have.keys() - want.keys())
    return f"{unexpected[0]!r} is shown but was never written" if unexpected else ""


def prefix_difference(found: Iterable[Point], expected: Iterable[Point]) -> str:
    """Return the first difference within the length of the expected curves, as a clause; empty if there is none."""
    have, want = _curves(found), _curves(expected)
    cut = [point for name, curve in want.items() for point in have.get(name, [])[: len(curve)]]
    return difference(cut, (point for curve in want.values() for point in curve))


def _curves(points: Iterable[Point]) -> dict[str, list[Point]]:
    out: dict[str, list[Point]] = {}
    for point in points:
        out.setdefault(point.name, []).append(point)
    return out


def _difference(name: str, have: Sequence[Point], want: Sequence[Point]) -> str:
    for number, (here, there) in enumerate(zip(have, want, strict=False), 1):
        for field in Point._fields:
            if not _same(getattr(here, field), getattr(there, field)):
                return (
                    f"point {number} of {name!r} has {field} {getattr(here, field)!r} instead of "
                    f"{getattr(there, field)!r} (found {tuple(here)}, expected {tuple(there)})"
                )
    if len(have) != len(want):
        steps = f"the last steps are {[p.step for p in have[-3:]]} instead of {[p.step for p in want[-3:]]}"
        return f"{name!r} has {len(have)} points instead of {len(want)}; {steps}"
    return ""


def _same(one: object, other: object) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or one == other
