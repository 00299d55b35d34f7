"""The records of a journal: frozen, typed and keyword-only."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Literal

import msgspec

from telemetry.metrics import Metric

SCHEMA = 1
SEQ_PER_SEGMENT = 10**9
"""Sequence numbers of segment k run from k·10⁹ (its run record) upwards."""


MAX_STEP, MAX_NAME_LENGTH = 1 << 62, 250
"""Below the one every count is; up to the other a name may have characters."""
Count = Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEP)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Text = Annotated[str, msgspec.Meta(max_length=4000)]
# A sink's files are named by it, and a journal may come from anywhere.
SinkName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)]
Number = float | Literal["NaN", "Infinity", "-Infinity"]
Status = Literal["finished", "failed", "preempted", "killed"]
Level = Literal["info", "warning", "error"]
Cause = Literal["non-finite", "spike", "unlabelled", "apart", "stalled"]
"""What the watch tells of: a value that is not finite, one far above its usual, a metric without a value, a loss and an
error that go opposite ways, and no point for long."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all records have: a number that is never used twice in a run, and the time in ms since 1970."""

    seq: Count
    time: Count


class RunRecord(Record, frozen=True, kw_only=True, tag="run"):
    """The first line of each segment: what the run is, and what its metrics mean.

    ``metrics`` is keyed by full name, ``stream/metric``. ``attempt`` counts from 1 and grows with each resume.
    ``sinks`` holds the options that each sink was started with.
    """

    schema: Annotated[int, msgspec.Meta(ge=1)]
    run_id: Name
    name: Name
    attempt: Annotated[int, msgspec.Meta(ge=1, lt=SEQ_PER_SEGMENT)]
    every: Annotated[int, msgspec.Meta(ge=1)]
    started: Count
    project: Annotated[str, msgspec.Meta(max_length=250)] | None = None
    metrics: dict[Name, Metric] = {}
    params: dict[str, Any] = {}
    versions: dict[str, str] = {}
    sinks: dict[SinkName, dict[str, Any]] = {}
    host: Text = ""
    pid: Count = 0


# A journal may hold millions of these: without gc=False Python would look through those that were read, for cycles
# that they cannot have, again and again while more are read.
class Scalars(Record, frozen=True, kw_only=True, gc=False, tag="scalars"):
    """The values of one stream at one iteration, in display units.

    Examples:
        >>> Scalars(seq=17, time=1760000000000, stream="train", step=3400, values={"E_rmse": 12.9}).names()
        ['train/E_rmse']
    """

    stream: Name
    step: Count
    values: dict[Name, float]

    def names(self) -> list[str]:
        """Give the full names of the values, in order."""
        return [f"{self.stream}/{name}" for name in self.values]

    def items(self) -> list[tuple[str, float]]:
        """Give (full name, value) pairs, in order."""
        return [(f"{self.stream}/{name}", value) for name, value in self.values.items()]


class Alert(Record, frozen=True, kw_only=True, tag="alert", omit_defaults=True):
    """Something that a person should know of, noticed at iteration ``step``.

    Of those that the watch gives, ``cause`` says what it is, ``metric`` which shows it, with its ``value`` and the
    ``baseline`` that it is held against, and ``since`` from which iteration on; with ``recovered`` it is over.
    """

    step: Count
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=250)]
    text: Text = ""
    level: Level = "warning"
    # A later version may know others.
    cause: Annotated[str, msgspec.Meta(max_length=50)] | None = None
    metric: Annotated[str, msgspec.Meta(max_length=250)] = ""
    value: Number | None = None
    baseline: float | None = None
    since: Count | None = None
    recovered: bool = False


class Resumed(Record, frozen=True, kw_only=True, tag="resumed"):
    """Attempt ``attempt`` goes on after iteration ``step``; earlier records beyond it are superseded."""

    step: Count
    attempt: Annotated[int, msgspec.Meta(ge=2)]


class Closed(Record, frozen=True, kw_only=True, tag="closed"):
    """The last record of an attempt that ended in an orderly way."""

    status: Status
    reason: Text = ""


AnyRecord = RunRecord | Scalars | Alert | Resumed | Closed


def json_number(value: float) -> Number:
    """Give a number as JSON has it, or the name of one that JSON lacks."""
    if math.isfinite(value):
        return value
    # JSON has no such numbers, and null could not be told from a value that is missing.
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def now_ms() -> int:
    """Give the wall-clock time in integer milliseconds since 1970."""
    return time.time_ns() // 1_000_000
