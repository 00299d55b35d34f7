"""Encode records as journal lines, and decode them.

A line is one JSON object that ends with its checksum: ``{"kind":"scalars","seq":1,…,"crc":"89abcdef"}``. The checksum
is the CRC-32 (zlib) of all bytes before ``,"crc"``, as eight hexadecimal digits.
"""

from __future__ import annotations

import math
import zlib
from typing import get_args

import msgspec

from telemetry.records import (
    Alert,
    AnyRecord,
    Artifact,
    Closed,
    Count,
    Histogram,
    Image,
    Name,
    Number,
    Record,
    Resumed,
    RunRecord,
    RunUpdate,
    Scalars,
    Table,
    Text,
    json_number,
)

MAX_LINE = 1 << 20
"""Maximum length of a line in bytes; a longer one counts as damaged."""
_CRC = b',"crc":"%08x"}\n'
_CRC_LENGTH = len(_CRC % 0)


class _ScalarsLine(Record, frozen=True, kw_only=True, tag="scalars"):
    """Scalars as written in a line, where NaN and infinities are strings."""

    stream: Name
    step: Count
    values: dict[Name, Number]


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """An intact record of a kind that this version does not know; only its sequence number is used."""

    kind: str
    seq: Count


_Line = RunRecord | _ScalarsLine | Alert | Resumed | Closed | RunUpdate | Text | Table | Image | Histogram | Artifact
KINDS = frozenset(str(record.__struct_config__.tag) for record in get_args(AnyRecord))
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)
_line_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)
_unknown_decoder = msgspec.json.Decoder(Unknown)
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(record: AnyRecord) -> bytes:
    """Return the line of a record, including its newline.

    Raises:
        ValueError: the line would exceed ``MAX_LINE``.
    """
    if isinstance(record, Scalars) and not all(map(math.isfinite, record.values.values())):
        body = _encoder.encode(_as_line(record))[:-1]
    else:
        body = _encoder.encode(record)[:-1]
    line = body + _CRC % zlib.crc32(body)
    if len(line) > MAX_LINE:
        msg = f"a {type(record).__name__} record of {len(line)} bytes exceeds the {MAX_LINE} bytes of a journal line"
        raise ValueError(msg)
    return line


def is_intact(line: bytes) -> bool:
    """Return whether a line ends with its own checksum and a newline."""
    cut = len(line) - _CRC_LENGTH
    return 0 < cut <= MAX_LINE - _CRC_LENGTH and line[cut:] == _CRC % zlib.crc32(line[:cut])


def stream_mark(stream: str) -> bytes:
    """Return the bytes that all scalars of a stream contain: a stream name is encoded in exactly one way."""
    return b'"stream":' + _encoder.encode(stream)


def decode(line: bytes) -> AnyRecord | Unknown | None:
    """Return the record in ``line``, which includes its newline; None if the line is damaged."""
    if not is_intact(line):
        return None
    try:
        return _decoder.decode(line)
    except _DECODE_ERRORS:
        return _decode_non_finite(line) or _decode_unknown(line)


def _decode_non_finite(line: bytes) -> Scalars | None:
    try:
        record = _line_decoder.decode(line)
    except _DECODE_ERRORS:
        return None
    if not isinstance(record, _ScalarsLine):
        return None
    values = {name: float(value) for name, value in record.values.items()}
    return Scalars(seq=record.seq, time=record.time, stream=record.stream, step=record.step, values=values)


def _decode_unknown(line: bytes) -> Unknown | None:
    try:
        record = _unknown_decoder.decode(line)
    except _DECODE_ERRORS:
        return None
    return None if record.kind in KINDS else record


def _as_line(record: Scalars) -> _ScalarsLine:
    values = {name: json_number(value) for name, value in record.values.items()}
    return _ScalarsLine(seq=record.seq, time=record.time, stream=record.stream, step=record.step, values=values)
