"""Find the lowest value of a metric in a journal.

The whole journal is searched for lines that name the stream; no other line is checked or decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from telemetry.journal.codec import MAX_LINE, decode
from telemetry.journal.run_attempts import first_record, superseded_after
from telemetry.journal.segment_lines import open_segment, read_at
from telemetry.journal.segments import segment_path
from telemetry.records import SEQ_PER_SEGMENT, Scalars

_CHUNK_SIZE = 1 << 20
"""Bytes read at a time while searching a segment."""


class BestValue(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest finite value of a metric and the first iteration with this value."""

    value: float
    step: int


def find_best_value(folder: Path, numbers: list[int], metric: str) -> BestValue | None:
    """Return the lowest finite value of a metric in the segments ``numbers``; None if there is none.

    ``metric`` is a full name, ``stream/name``. Superseded records do not count.
    """
    stream, _, name = metric.partition("/")
    first_records = {n: first for n in numbers[1:] if (first := first_record(folder, n)) is not None}
    last_valid_steps = superseded_after(numbers, first_records)
    best: BestValue | None = None
    for number in numbers:
        for record in _scalars_of(segment_path(folder, number), stream):
            value = record.values.get(name, math.nan)
            last_valid = last_valid_steps.get(record.seq // SEQ_PER_SEGMENT, record.step)
            if record.step <= last_valid and math.isfinite(value) and (best is None or value < best.value):
                best = BestValue(value=value, step=record.step)
    return best


def _scalars_of(path: Path, stream: str) -> Iterator[Scalars]:
    """Yield the scalars of one stream."""
    # The encoder writes a stream name in exactly one way, so a byte search finds all its records.
    mark = b'"stream":' + msgspec.json.encode(stream)
    for block in _blocks(path):
        at = block.find(mark)
        while at >= 0:
            end = block.find(b"\n", at) + 1
            record = decode(block[block.rfind(b"\n", 0, at) + 1 : end])
            if isinstance(record, Scalars) and record.stream == stream:
                yield record
            at = block.find(mark, end)


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield a segment in blocks of whole lines."""
    fd = open_segment(path)
    if fd is None:
        return
    try:
        offset, rest = 0, b""
        while chunk := read_at(fd, path, offset, _CHUNK_SIZE):
            offset += len(chunk)
            head, newline, tail = chunk.rpartition(b"\n")
            if newline:
                yield rest + head + newline
                rest = tail
            else:
                # Data longer than the longest possible line is damaged.
                rest = rest + chunk if len(rest) + len(chunk) <= MAX_LINE else b""
    finally:
        os.close(fd)
