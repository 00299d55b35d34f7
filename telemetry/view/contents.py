"""The contents of images, tables, texts, histograms and artifacts as HTML.

A run folder may come from an untrusted source: all texts are escaped, contents are verified, and their size is limited.
"""

from __future__ import annotations

import base64
import html
from functools import singledispatch
from itertools import islice, pairwise
from pathlib import Path

import msgspec

from telemetry.errors import SinkRejected, error_text
from telemetry.metrics import UNDECLARED
from telemetry.printable import printable
from telemetry.records import Artifact, Blob, Histogram, Image, Media, Table, Text
from telemetry.run_folder.blobs import blob_path, read_blob
from telemetry.units import NO_UNIT
from telemetry.view.run_entry import RunEntry
from telemetry.view.texts import escaped, number_text, size_text

MAX_IMAGE_BYTES, MAX_TABLE_BYTES, MAX_TEXT_BYTES = 5_000_000, 1_000_000, 1_000_000
"""Size of the largest contents that are shown."""
MAX_PIXELS = 50_000_000
"""Number of pixels of the largest image that is shown; a small file may contain many more."""
MAX_ROWS, MAX_COLUMNS, MAX_CHARACTERS = 100, 40, 20_000
"""Number of rows and columns of a table, and of characters of a text, that are shown."""
_NUMBER = " class='number'"
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_WIDTH, _HEIGHT, _MARGIN = 400, 150, 20
"""Size of a histogram, and of the space for the labels below it, in pixels."""


class _Table(msgspec.Struct):
    columns: list[str]
    rows: list[list[str | float | bool | None]]


_decode_table = msgspec.json.Decoder(_Table).decode


class _NotShown(Exception):
    """The content cannot be shown, for the reason in its message."""


def content_html(entry: RunEntry, record: Media) -> str:
    """Return the content of a record, or the reason why it cannot be shown."""
    try:
        return _html(record, entry)
    except (_NotShown, SinkRejected, OSError) as error:
        return f"<p class='error'>Not shown: {escaped(error_text(error))}</p>"


@singledispatch
def _html(record: Media, entry: RunEntry) -> str:
    raise NotImplementedError(type(record))


@_html.register
def _image(record: Image, entry: RunEntry) -> str:
    data = _read(entry.folder, record.blob, MAX_IMAGE_BYTES)
    width, height = _png_size(data)
    caption = f"<small>{escaped(record.caption)}</small>" if record.caption else ""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    # With the size, the page does not move while the browser decodes the image.
    return f"<img width={width} height={height} alt='{escaped(record.name)}' src='{source}'>{caption}"


def _png_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels (https://www.w3.org/TR/png/#11IHDR)."""
    width, height = (int.from_bytes(data[start : start + 4]) for start in (16, 20))
    if not data.startswith(_PNG) or not width * height:
        raise _NotShown("not a PNG image")
    if width * height > MAX_PIXELS:
        raise _NotShown(f"an image of {width:,} by {height:,} pixels is too large")
    return width, height


@_html.register
def _text(record: Text, entry: RunEntry) -> str:
    text = _read(entry.folder, record.blob, MAX_TEXT_BYTES).decode(errors="replace")
    lines = (printable(line.expandtabs()) for line in text[:MAX_CHARACTERS].splitlines())
    rest = f"The first {MAX_CHARACTERS:,} of {len(text):,} characters" if len(text) > MAX_CHARACTERS else ""
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>{_note(rest)}"


@_html.register
def _table(record: Table, entry: RunEntry) -> str:
    try:
        table = _decode_table(_read(entry.folder, record.blob, MAX_TABLE_BYTES))
    except msgspec.MsgspecError as error:
        raise _NotShown(f"not a table ({error})") from error
    rows = [row[:MAX_COLUMNS] for row in table.rows[:MAX_ROWS]]
    numeric = {number for row in rows for number, value in enumerate(row) if isinstance(value, float)}
    titles = (f"<th{_NUMBER * (n in numeric)}>{escaped(name)}</th>" for n, name in enumerate(table.columns))
    head = "".join(islice(titles, MAX_COLUMNS))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    left = f"The first {MAX_ROWS} of {len(table.rows):,} rows" if len(table.rows) > MAX_ROWS else ""
    return f"<div class='scrolled'><table><tr>{head}</tr>{body}</table></div>{_note(left)}"


def _cell(value: str | float | bool | None) -> str:
    if isinstance(value, str | bool | None):
        return f"<td>{'' if value is None else escaped(str(value))}</td>"
    text = f"{value:,.0f}" if value.is_integer() and abs(value) < 10**15 else number_text(value)
    return f"<td{_NUMBER}>{text}</td>"


@_html.register
def _histogram(record: Histogram, entry: RunEntry) -> str:
    edges, counts = record.edges, record.counts
    if len(edges) != len(counts) + 1 or any(a >= b for a, b in pairwise(edges)) or min(counts) < 0:
        raise _NotShown("the edges are not ascending, or do not fit the counts")
    span, highest = edges[-1] - edges[0], max(counts) or 1
    bars = []
    for (start, end), count in zip(pairwise(edges), counts, strict=True):
        left, right = (_WIDTH * ((edge - edges[0]) / span) for edge in (start, end))
        height = (_HEIGHT - _MARGIN) * (count / highest)
        title = f"{number_text(start)} to {number_text(end)}: {count:,.6g}"
        bars.append(
            f"<rect x='{left:.2f}' y='{_HEIGHT - height:.2f}' width='{max(right - left - 0.5, 0.5):.2f}'"
            f" height='{height:.2f}'><title>{title}</title></rect>"
        )
    unit = entry.metrics.get(record.name, UNDECLARED).unit
    note = f"{sum(counts):,.6g} values, up to {max(counts):,.6g} in a bin"
    middle = "" if unit in NO_UNIT else escaped(unit)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT + _MARGIN}' role='img' aria-label='{escaped(record.name)}'>"
        f"<g>{''.join(bars)}</g><line x1='0' x2='{_WIDTH}' y1='{_HEIGHT}' y2='{_HEIGHT}'/>"
        f"{_label(0, 'start', number_text(edges[0]))}{_label(_WIDTH / 2, 'middle', middle)}"
        f"{_label(_WIDTH, 'end', number_text(edges[-1]))}</svg>{_note(note)}"
    )


@_html.register
def _artifact(record: Artifact, entry: RunEntry) -> str:
    blob = record.blob
    path = blob_path(entry.folder, blob)
    found = path.lstat().st_size
    if found != blob.size:
        raise _NotShown(f"{path} has changed since it was recorded: its size is {size_text(found)}")
    what = f"{escaped(record.file)}, {escaped(record.type)}, {size_text(blob.size)}"
    return f"{what}<br><small>SHA-256 <code title='{escaped(str(path))}'>{blob.sha256[:12]}</code></small>"


def _label(x: float, anchor: str, text: str) -> str:
    return f"<text x='{x}' y='{_HEIGHT + _MARGIN - 5}' text-anchor='{anchor}'>{text}</text>"


def _note(text: str) -> str:
    return f"<small>{text}</small>" if text else ""


def _read(folder: Path, blob: Blob, limit: int) -> bytes:
    if blob.size > limit:
        raise _NotShown(f"{size_text(blob.size)} is too much for this page; see {blob_path(folder, blob)}")
    return read_blob(folder, blob)
