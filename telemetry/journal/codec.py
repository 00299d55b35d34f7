"""The line that each record becomes, and back.

A line is one JSON object, ended by its checksum: ``{"kind":"scalars","seq":1,…,"crc":"89abcdef"}``. The checksum
is the CRC-32 (zlib) of all bytes before ``,"crc"``, as eight hexadecimal digits.
"""

from __future__ import annotations

import math
import zlib

import msgspec

from telemetry.records import (
    Alert,
    AnyRecord,
    Closed,
    Count,
    Name,
    Number,
    Record,
    Resumed,
    RunRecord,
    Scalars,
    json_number,
)

MAX_LINE = 1 << 20
"""Bytes a line may have; a longer one is damage."""
_CRC = b',"crc":"%08x"}\n'
_CRC_BYTES = len(_CRC % 0)


class _ScalarsLine(Record, frozen=True, kw_only=True, tag="scalars"):
    """Scalars as they stand in a line, where a number that JSON lacks is spelt out."""

    stream: Name
    step: Count
    values: dict[Name, Number]


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A whole record of a kind that this version does not know; it only keeps its place."""

    kind: str
    seq: Count


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
    values = {name: json_number(value) for name, value in record.values.items()}
    return _ScalarsLine(seq=record.seq, time=record.time, stream=record.stream, step=record.step, values=values)
