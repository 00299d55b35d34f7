"""Export the values of a journal as rows, one value per row, in journal order. The journal is streamed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from telemetry.journal.reader import JournalReader, read_header, read_metrics
from telemetry.metrics import UNDECLARED
from telemetry.printable import csv_text
from telemetry.records import Number, Scalars, json_number

Format = Literal["csv", "jsonl"]
_BATCH = 1000
"""Records read from the journal at a time."""


class Row(NamedTuple):
    """One value.

    ``run`` is the run ID, ``time`` is in milliseconds since 1970, ``name`` is the full name. ``value`` is as in the
    journal: NaN and the infinities are the strings ``NaN``, ``Infinity`` and ``-Infinity``. ``unit`` is ``1`` if the
    metric is dimensionless, and empty if the run does not declare it.
    """

    run: str
    seq: int
    stream: str
    step: int
    time: int
    name: str
    value: Number
    unit: str
    superseded: bool


class Export:
    """Iterate over the rows of a run; values superseded by a later attempt are included only on request.

    Raises:
        RunNotFound, JournalError, RunFolderError: see ``read_run``.
    """

    def __init__(self, folder: Path, *, superseded: bool = False) -> None:
        self.columns = Row._fields if superseded else Row._fields[:-1]
        self.run = read_header(folder).run_id
        self._metrics = read_metrics(folder)
        self._journal = JournalReader(folder, superseded=superseded)
        self.skipped = self._journal.skipped

    def __iter__(self) -> Iterator[Row]:
        while batch := self._journal.read(_BATCH, live=False):
            for record in batch:
                if isinstance(record, Scalars):
                    yield from self._rows(record)

    def _rows(self, record: Scalars) -> Iterator[Row]:
        superseded = self._journal.is_superseded(record)
        for name, value in record.items():
            unit = self._metrics.get(name, UNDECLARED).unit
            number = json_number(value)
            yield Row(self.run, record.seq, record.stream, record.step, record.time, name, number, unit, superseded)

    def lines(self, form: Format) -> Iterator[str]:
        """Return the lines of the exported file; a CSV file starts with the column names."""
        return _csv_lines(self) if form == "csv" else _jsonl_lines(self)


class _LineBuffer:
    """A file-like object that keeps the last line written by ``csv``."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text.removesuffix("\r\n") + "\n"


def _csv_lines(export: Export) -> Iterator[str]:
    line = _LineBuffer()
    # csv quotes a field that contains a character of the terminator; "\r\n" covers both line-ending characters.
    writer = csv.writer(line, lineterminator="\r\n")
    writer.writerow(export.columns)
    yield line.text
    text = lru_cache(csv_text)
    columns = len(export.columns)
    for run, seq, stream, step, time, name, value, unit, superseded in export:
        cells = (text(run), seq, text(stream), step, time, text(name), value, text(unit), superseded)
        writer.writerow(cells[:columns])
        yield line.text


def _jsonl_lines(export: Export) -> Iterator[str]:
    encode = msgspec.json.Encoder().encode
    for row in export:
        yield encode(dict(zip(export.columns, row, strict=False))).decode() + "\n"
