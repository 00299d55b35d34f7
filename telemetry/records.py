"""The records of a journal."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from telemetry.metrics import Metric

SCHEMA = 1
SEQ_PER_SEGMENT = 10**9
"""Number of sequence numbers per segment: those of segment k start at k·10⁹, which is the number of its run record."""
MAX_STEP = 1 << 62
"""Exclusive upper bound of steps, and of all other counts."""
MAX_NAME_LENGTH = 250
"""Maximum length of a name in characters."""
Count = Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEP)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
ShortText = Annotated[str, msgspec.Meta(max_length=4000)]
Title = Annotated[str, msgspec.Meta(max_length=250)]
# Part of file names and of suggested commands; a run folder may come from an untrusted source.
_SINK_NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
SinkName = Annotated[str, msgspec.Meta(pattern=_SINK_NAME.pattern)]
Number = float | Literal["NaN", "Infinity", "-Infinity"]
Status = Literal["finished", "failed", "preempted", "killed"]
Level = Literal["info", "warning", "error"]
Cause = Literal["non-finite", "spike", "diverging", "unlabelled", "apart", "stalled", "reported"]
"""The causes of alerts: a value that is not finite, one far above its usual value, a training loss far above its lowest
level, a metric without a value, a loss and an error that move in opposite directions, no new point for a long time, and
a report by the trainer (``bus.alert``)."""


def is_sink_name(name: str) -> bool:
    """Return whether a name can be that of a sink: up to 100 letters (a to z), digits and ``_``, ``.`` and ``-``."""
    return _SINK_NAME.match(name) is not None


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all records: a sequence number that is unique within the run, and the time in ms since 1970."""

    seq: Count
    time: Count


class RunRecord(Record, frozen=True, kw_only=True, tag="run"):
    """The first record of each segment: a description of the run and its metrics.

    Attributes:
        schema: version of the journal format.
        run_id: the name of the run folder.
        name: the display name.
        attempt: 1 for a new run, increased by each resume.
        every: interval between points of the periodic streams, in iterations.
        started: start of the first attempt in ms since 1970.
        project: the project that the run belongs to.
        metrics: declarations, keyed by full name, ``stream/metric``.
        params: the parameters of the run, without credentials.
        versions: versions of the software used.
        sinks: the options that each sink was started with.
        host: the hostname of the trainer.
        pid: the process ID of the trainer.
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
    host: ShortText = ""
    pid: Count = 0


# A journal may contain millions of these. With gc=False the garbage collector does not repeatedly scan them for cycles,
# which they cannot have.
class Scalars(Record, frozen=True, kw_only=True, gc=False, tag="scalars"):
    """The values of one stream at iteration ``step``, by metric name and in display units.

    Examples:
        >>> Scalars(seq=17, time=1760000000000, stream="train", step=3400, values={"E_rmse": 12.9}).names()
        ['train/E_rmse']
    """

    stream: Name
    step: Count
    values: dict[Name, float]

    def names(self) -> list[str]:
        """Return the full names of the values, in order."""
        return [f"{self.stream}/{name}" for name in self.values]

    def items(self) -> list[tuple[str, float]]:
        """Return (full name, value) pairs, in order."""
        return [(f"{self.stream}/{name}", value) for name, value in self.values.items()]


class Alert(Record, frozen=True, kw_only=True, tag="alert", omit_defaults=True):
    """A notification raised at iteration ``step``, by anomaly detection or by the caller.

    Attributes:
        title: what happened.
        text: details.
        level: the severity.
        cause: why it was raised (see ``Cause``); alerts reported by trainers have none in runs of version 0.1.
        metric: full name of the metric concerned.
        value: the value of the metric.
        baseline: the usual value of the metric.
        since: the iteration at which the problem began.
        recovered: whether the problem has ended.
    """

    step: Count
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=250)]
    text: ShortText = ""
    level: Level = "warning"
    # Not the type Cause: later versions may add causes.
    cause: Annotated[str, msgspec.Meta(max_length=50)] | None = None
    metric: Annotated[str, msgspec.Meta(max_length=250)] = ""
    value: Number | None = None
    baseline: float | None = None
    since: Count | None = None
    recovered: bool = False

    @property
    def message(self) -> str:
        """The title with the details."""
        return f"{self.title}: {self.text}" if self.text else self.title


class Resumed(Record, frozen=True, kw_only=True, tag="resumed"):
    """Attempt ``attempt`` resumes after iteration ``step``; earlier records with a higher step are superseded."""

    step: Count
    attempt: Annotated[int, msgspec.Meta(ge=2)]


class Closed(Record, frozen=True, kw_only=True, tag="closed"):
    """The last record of an attempt that was closed properly."""

    status: Status
    reason: ShortText = ""


class RunUpdate(Record, frozen=True, kw_only=True, tag="update"):
    """Additions to the description of a run since the run record of its segment.

    Attributes:
        metrics: declarations of metrics that have first appeared, by full name.
        params: parameters that were added or changed, without credentials.
    """

    metrics: dict[Name, Metric] = {}
    params: dict[str, Any] = {}


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """Content kept next to the journal, in the file ``blobs/<sha256><suffix>`` of the run folder.

    Attributes:
        sha256: the SHA-256 of the content, in hexadecimal.
        size: its size in bytes.
        suffix: the suffix of the file, such as ``.png``.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size: Count
    suffix: Annotated[str, msgspec.Meta(pattern=r"\A(\.[A-Za-z0-9]{1,16})?\Z")] = ""

    @property
    def file(self) -> str:
        """The name of the file in the folder ``blobs``."""
        return f"{self.sha256}{self.suffix}"


class Media(Record, frozen=True, kw_only=True):
    """Base of the records of something other than numbers, at iteration ``step``.

    Attributes:
        name: the full name, such as ``val/parity/E``.
        step: the global iteration.
    """

    name: Name
    step: Count


class Text(Media, frozen=True, kw_only=True, tag="text"):
    """A text; the content of the blob is Markdown in UTF-8."""

    blob: Blob


class Table(Media, frozen=True, kw_only=True, tag="table"):
    """A table; the content of the blob is JSON, ``{"columns": ["name", …], "rows": [[value, …], …]}``.

    A value is a text, a number, a Boolean or null; NaN and infinities are strings, as in the journal.
    """

    blob: Blob


class Image(Media, frozen=True, kw_only=True, tag="image"):
    """An image; the content of the blob is PNG.

    Attributes:
        blob: the content.
        width, height: the size in pixels.
        caption: what it shows.
    """

    blob: Blob
    width: Count
    height: Count
    caption: Title = ""


class Histogram(Media, frozen=True, kw_only=True, tag="histogram"):
    """A histogram of up to 512 bins.

    Attributes:
        edges: the edges of the bins, ascending, one more than ``counts``; in display units if a metric of this name is
            declared.
        counts: the number of values in each bin.
    """

    edges: Annotated[list[float], msgspec.Meta(min_length=2, max_length=513)]
    counts: Annotated[list[float], msgspec.Meta(min_length=1, max_length=512)]


class Artifact(Media, frozen=True, kw_only=True, tag="artifact"):
    """A file, such as the weights of a model.

    Attributes:
        blob: the content.
        file: the name of the file.
        type: what it is: ``model``, ``dataset`` …
    """

    blob: Blob
    file: Title
    type: Title = "file"


AnyMedia = Text | Table | Image | Histogram | Artifact
MEDIA_KINDS = ("text", "table", "image", "histogram", "artifact")
AnyRecord = RunRecord | Scalars | Alert | Resumed | Closed | RunUpdate | AnyMedia


def kind_of(record: Record) -> str:
    """Return the kind of a record, as in the journal."""
    return str(record.__struct_config__.tag)


def updated(run: RunRecord, update: RunUpdate) -> RunRecord:
    """Return a run record with the additions of an update; a metric keeps its first declaration.

    The parameters of an update that precedes the run record, in an earlier attempt, no longer hold.
    """
    new = {name: metric for name, metric in update.metrics.items() if name not in run.metrics}
    params = run.params | update.params if update.seq > run.seq else run.params
    return msgspec.structs.replace(run, metrics=run.metrics | new, params=params)


def json_number(value: float) -> Number:
    """Return a finite number unchanged, and NaN and infinities as strings, because JSON cannot represent them."""
    if math.isfinite(value):
        return value
    # null would be indistinguishable from a missing value.
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def local_time(ms: int, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time, in ms since 1970, as text in the local time zone; ``pattern`` is that of ``strftime``."""
    try:
        return datetime.fromtimestamp(ms / 1000).astimezone().strftime(pattern)
    except (ValueError, OverflowError, OSError):  # not a valid time; the file may have been edited
        return f"{ms} ms"


def now_ms() -> int:
    """Return the wall-clock time in integer milliseconds since 1970."""
    return time.time_ns() // 1_000_000
