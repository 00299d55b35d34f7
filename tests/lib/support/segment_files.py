"""Write segments by hand, byte by byte, and read a run folder."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from telemetry.journal.codec import encode
from telemetry.journal.reader import JournalReader
from telemetry.journal.segments import segment_path
from telemetry.records import SCHEMA, SEQ_PER_SEGMENT, AnyRecord, Resumed, RunRecord, Scalars


def sealed(body: bytes) -> bytes:
    """Return the line of a JSON object, given without its closing brace, with a correct checksum."""
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def run_record(segment: int = 0, **fields: Any) -> RunRecord:
    given: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": "water",
        "name": "water",
        "attempt": 1,
        "every": 1,
        "started": 5,
    }
    return RunRecord(seq=segment * SEQ_PER_SEGMENT, time=5, **given | fields)


def scalars(seq: int, step: int | None = None) -> Scalars:
    """Return a record at iteration ``step``, by default its number within its segment."""
    step = seq % SEQ_PER_SEGMENT if step is None else step
    return Scalars(
        seq=seq, time=1000 + seq % SEQ_PER_SEGMENT, stream="train", step=step, values={"loss": 1 / (1 + step)}
    )


def numbered(segment: int, first: int, last: int) -> list[Scalars]:
    """Return the records ``first`` to ``last`` of a segment."""
    return [scalars(segment * SEQ_PER_SEGMENT + n) for n in range(first, last + 1)]


def resumed(segment: int, step: int, attempt: int = 2) -> Resumed:
    return Resumed(seq=segment * SEQ_PER_SEGMENT + 1, time=7, step=step, attempt=attempt)


def lines_of(segment: int, records: Iterable[AnyRecord]) -> list[bytes]:
    """Return the lines of a segment, including that of its run record."""
    return [encode(run_record(segment)), *map(encode, records)]


def write(folder: Path, segment: int, records: Iterable[AnyRecord | bytes]) -> Path:
    """Write a segment: its run record, then the records; bytes among them are written unchanged."""
    path = segment_path(folder, segment)
    body = (r if isinstance(r, bytes) else encode(r) for r in [run_record(segment), *records])
    path.write_bytes(b"".join(body))
    return path


def read_all(reader: JournalReader, *, live: bool = False, limit: int = 1000) -> list[AnyRecord]:
    """Read until no further record is available."""
    records: list[AnyRecord] = []
    while batch := reader.read(limit, live=live):
        assert len(batch) <= limit
        records += batch
    return records


def seqs(records: Sequence[AnyRecord]) -> list[int]:
    return [record.seq for record in records]


class Clock:
    """A monotonic clock set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
