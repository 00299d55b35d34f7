"""The values of a journal as rows, one a value, in the order of the journal; read and written bit by bit."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from telemetry.journal.reader import JournalReader, read_header, read_metrics
from telemetry.metrics import UNDECLARED
from telemetry.records import Number, Scalars, json_number

Format = Literal["csv", "jsonl"]
_BATCH = 1000


class Row(NamedTuple):
    """One value.

    ``run`` is the run's id, ``time`` in ms since 1970, ``name`` the full name, ``value`` as it stands in the journal:
    NaN and the infinities are ``NaN``, ``Infinity`` and ``-Infinity``. ``unit`` is ``1`` where there is none, and
    empty where the run does not declare the metric.
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
    """The rows of a run, without what a later attempt has superseded, or with it.

    Raises:
        RunNotFound, JournalError, RunFolderError: see ``read_run``.
    """

    def __init__(self, folder: Path, *, superseded: bool = False) -> None:
        self.columns = Row._fields if superseded else Row._fields[:-1]
        self._run = read_header(folder).run_id
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
            yield Row(self._run, record.seq, record.stream, record.step, record.time, name, number, unit, superseded)

    def lines(self, form: Format) -> Iterator[str]:
        """Give the lines of a file; the first one of a CSV has the names of the columns."""
        return _csv(self) if form == "csv" else _jsonl(self)


class _Line:
    """What ``csv`` writes to: it holds one line."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        # csv quotes what would end a line for it; all that would end one for anybody is in what it ends lines with.
        self.text = text.removesuffix("\r\n") + "\n"


def _csv(export: Export) -> Iterator[str]:
    line = _Line()
    writer = csv.writer(line, lineterminator="\r\n")
    writer.writerow(export.columns)
    yield line.text
    for row in export:
        writer.writerow(row[: len(export.columns)])
        yield line.text


def _jsonl(export: Export) -> Iterator[str]:
    encode = msgspec.json.Encoder().encode
    for row in export:
        yield encode(dict(zip(export.columns, row, strict=False))).decode() + "\n"
