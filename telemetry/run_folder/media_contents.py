"""The contents of texts and tables, read from the run folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from telemetry.errors import SinkRejected
from telemetry.records import Table, Text
from telemetry.run_folder.blobs import read_blob

Cell = str | bool | int | float | None
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON cannot represent."""


class TableContent(msgspec.Struct):
    """The names of the columns, and the rows."""

    columns: list[str]
    rows: list[list[Cell]]


def read_text(folder: Path, record: Text) -> str:
    """Return the Markdown of a text.

    Raises:
        SinkRejected: the content is missing or has changed.
    """
    return read_blob(folder, record.blob).decode(errors="replace")


def read_table(folder: Path, record: Table) -> TableContent:
    """Return the content of a table; in columns of numbers, NaN and infinities are numbers.

    Raises:
        SinkRejected: the content is missing, has changed, or is not a table.
    """
    try:
        table = msgspec.json.decode(read_blob(folder, record.blob), type=TableContent)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = f"the content of {record.name} at iteration {record.step} is not a table: {error}"
        raise SinkRejected(msg) from error
    width = len(table.columns)
    if any(len(row) != width for row in table.rows):
        msg = f"the table {record.name} at iteration {record.step} has {width} columns, but rows of another length"
        raise SinkRejected(msg)
    for index in range(width):
        _restore_numbers(table.rows, index)
    return table


def _restore_numbers(rows: list[list[Cell]], index: int) -> None:
    texts = [row for row in rows if isinstance(row[index], str)]
    has_numbers = any(isinstance(row[index], int | float) and not isinstance(row[index], bool) for row in rows)
    if has_numbers and all(row[index] in _NOT_FINITE for row in texts):
        for row in texts:
            row[index] = float(str(row[index]))
