"""The records of a journal, and the line that each becomes.

A line is one JSON object, ended by its checksum: ``{"kind":"scalars","seq":1,…,"crc":"89abcdef"}``. The checksum
is the CRC-32 (zlib) of all bytes before ``,"crc"``, as eight hexadecimal digits.
"""

from __future__ import annotations

import math
import zlib
from typing import Annotated, Any, Literal

import msgspec

SCHEMA = 1
SEGMENT = 10**9
"""Sequence numbers of segment k run from k·10⁹ (its run record) upwards."""
MAX_LINE = 1 << 20
"""Bytes a line may have; a longer one is damage."""

_CRC = b',"crc":"%08x"}\n'
_CRC_BYTES = len(_CRC % 0)

LARGEST, LONGEST = 1 << 62, 250
"""Below the one every count is; up to the other a name may have characters."""
Count = Annotated[int, msgspec.Meta(ge=0, lt=LARGEST)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
Text = Annotated[str, msgspec.Meta(max_length=4000)]
# A sink's files are named by it, and a journal may come from anywhere.
SinkName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)]
Number = float | Literal["NaN", "Infinity", "-Infinity"]
Status = Literal["finished", "failed", "preempted", "killed"]
Level = Literal["info", "warning", "error"]
Cause = Literal["non-finite", "spike", "unlabelled", "apart", "stalled"]
"""What the watch tells of: a value that is not finite, one far above its usual, a metric without a value, a loss and an
error that go opposite ways, and no point for long."""


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a metric is: the unit it is shown in, the unit it is published in, and what it measures.

    ``watch``: it is an error, or a loss, of which a steady course is expected, so that a rise is told as an alert. The
    mean over many batches is one, a single batch's is not.
    """

    unit: Annotated[str, msgspec.Meta(max_length=100)] = "1"
    source_unit: Annotated[str, msgspec.Meta(max_length=100)] = "1"
    label: Annotated[str, msgspec.Meta(max_length=250)] = ""
    watch: bool = False


UNDECLARED = Metric(unit="")
"""What is known of a metric that stands in a journal and that its run does not declare."""


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
    attempt: Annotated[int, msgspec.Meta(ge=1, lt=SEGMENT)]
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


class _ScalarsLine(Record, frozen=True, kw_only=True, tag="scalars"):
    """Scalars as they stand in a line, where a number that JSON lacks is spelt out."""

    stream: Name
    step: Count
    values: dict[Name, Number]


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


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A whole record of a kind that this version does not know; it only keeps its place."""

    kind: str
    seq: Count


AnyRecord = RunRecord | Scalars | Alert | Resumed | Closed
_Line = RunRecord | _ScalarsLine | Alert | Resumed | Closed
KINDS = frozenset({"run", "scalars", "alert", "resumed", "closed"})

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)
_spelt: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)
_unknown = msgspec.json.Decoder(Unknown)
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(record: AnyRecord) -> bytes:
    """Give the record's line, ended by a newline.

    Raises:
        ValueError: the line would be longer than ``MAX_LINE``.
    """
    if isinstance(record, Scalars) and not all(map(math.isfinite, record.values.values())):
        body = _encoder.encode(_spell_out(record))[:-1]
    else:
        body = _encoder.encode(record)[:-1]
    line = body + _CRC % zlib.crc32(body)
    if len(line) > MAX_LINE:
        msg = f"a {type(record).__name__} of {len(line)} bytes does not fit in a journal line of {MAX_LINE}"
        raise ValueError(msg)
    return line


def is_whole(line: bytes) -> bool:
    """Say whether a line is ended by its own checksum, and a newline."""
    cut = len(line) - _CRC_BYTES
    return 0 < cut <= MAX_LINE - _CRC_BYTES and line[cut:] == _CRC % zlib.crc32(line[:cut])


def decode(line: bytes) -> AnyRecord | Unknown | None:
    """Give the record of a line that ends with its newline; None if the line is damaged."""
    if not is_whole(line):
        return None
    try:
        return _decoder.decode(line)
    except _BROKEN:
        return _decode_spelt(line) or _decode_unknown(line)


def _decode_spelt(line: bytes) -> Scalars | None:
    try:
        record = _spelt.decode(line)
    except _BROKEN:
        return None
    if not isinstance(record, _ScalarsLine):
        return None
    values = {name: float(value) for name, value in record.values.items()}
    return Scalars(seq=record.seq, time=record.time, stream=record.stream, step=record.step, values=values)


def _decode_unknown(line: bytes) -> Unknown | None:
    try:
        record = _unknown.decode(line)
    except _BROKEN:
        return None
    return None if record.kind in KINDS else record


def _spell_out(record: Scalars) -> _ScalarsLine:
    values = {name: spelt(value) for name, value in record.values.items()}
    return _ScalarsLine(seq=record.seq, time=record.time, stream=record.stream, step=record.step, values=values)


def spelt(value: float) -> Number:
    """Give a number as JSON has it, or the name of one that JSON lacks."""
    if math.isfinite(value):
        return value
    # JSON has no such numbers, and null could not be told from a value that is missing.
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
