"""Read the points of one stream from a journal.

The whole journal is searched for lines that name the stream; no other line is checked or decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from telemetry.journal.codec import MAX_LINE, decode
from telemetry.journal.run_attempts import first_record, superseded_after
from telemetry.journal.segment_lines import open_segment, read_at
from telemetry.journal.segments import segment_path, segments
from telemetry.records import SEQ_PER_SEGMENT, Resumed, Scalars

_CHUNK_SIZE = 1 << 20
"""Bytes read at a time while searching a segment."""


def read_stream(folder: Path, numbers: list[int], stream: str) -> Iterator[Scalars]:
    """Yield the points of a stream in the segments ``numbers``, except superseded ones.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    first_records = {n: first for n in numbers[1:] if (first := first_record(folder, n)) is not None}
    last_valid_steps = superseded_after(numbers, first_records)
    for number in numbers:
        for record in _scalars_of(segment_path(folder, number), stream):
            if record.step <= last_valid_steps.get(record.seq // SEQ_PER_SEGMENT, record.step):
                yield record


def read_history(folder: Path, stream: str) -> list[Scalars | Resumed]:
    """Return all points of a stream in a run folder, also superseded ones, and the starts of later attempts, in order.

    Raises:
        RunFolderError: a segment cannot be read.
    """
    found: dict[int, Scalars | Resumed] = {}
    for number in segments(folder):
        first = first_record(folder, number)
        if isinstance(first, Resumed):
            found[first.seq] = first
        # After a disk fault, a segment contains copies of earlier records.
        found |= {record.seq: record for record in _scalars_of(segment_path(folder, number), stream)}
    return [found[seq] for seq in sorted(found)]


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
