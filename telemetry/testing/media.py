"""The records of media that the checks write, and what a backend must show for them."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from telemetry.records import Artifact, Blob, Histogram, Image, Media, Record, Table, Text, kind_of
from telemetry.run_folder.blobs import blob_path, blobs_folder, read_blob
from telemetry.testing.points import STARTED


class MediaItem(NamedTuple):
    """A text, table, image, histogram or artifact, as shown by a backend.

    Attributes:
        kind: ``text``, ``table``, ``image``, ``histogram`` or ``artifact``.
        name: the full name.
        step: the iteration.
        content: of a text, the text; of a table, the columns and the rows; of a histogram, the edges and the counts; of
            an image and an artifact, the bytes.
    """

    kind: str
    name: str
    step: int
    content: Any


def media_sample(folder: Path, first: int, step: int | None = None) -> list[Media]:
    """Return a record of each kind, numbered from ``first``, whose contents are in a run folder.

    The contents depend on ``first``; ``step`` is by default 10·seq.
    """
    text = f"# Notes {first}\n\n* a `|` b, é"
    table = {"columns": ["element", "RMSE"], "rows": [["H", 0.5], ["a|b", first]]}
    contents = [
        (text.encode(), ".md"),
        (json.dumps(table).encode(), ".json"),
        (_png(first % 256), ".png"),
        (f"weights {first}".encode() * 20, ".pt"),
    ]
    notes, errors, parity, weights = [write_blob(folder, *content) for content in contents]

    def fields(offset: int, name: str) -> dict[str, Any]:
        seq = first + offset
        time = STARTED + 1001 * (seq % 10**9)
        return {"seq": seq, "time": time, "name": name, "step": 10 * seq if step is None else step}

    return [
        Text(**fields(0, "val/notes"), blob=notes),
        Table(**fields(1, "val/errors"), blob=errors),
        Image(**fields(2, "val/parity/E"), blob=parity, width=2, height=2, caption="parity"),
        Histogram(**fields(3, "val/residuals"), edges=[-1.0, 0.0, 0.5, 2.0], counts=[float(first % 100), 0.0, 7.0]),
        Artifact(**fields(4, "best/weights"), blob=weights, file="model.pt", type="model"),
    ]


def write_blob(folder: Path, content: bytes, suffix: str = "") -> Blob:
    """Write a content into a run folder."""
    blob = Blob(sha256=hashlib.sha256(content).hexdigest(), size=len(content), suffix=suffix)
    blobs_folder(folder).mkdir(parents=True, exist_ok=True)
    blob_path(folder, blob).write_bytes(content)
    return blob


def items_of(folder: Path, records: Iterable[Record]) -> list[MediaItem]:
    """Return what the records of media contain, in order."""
    media = (record for record in records if isinstance(record, Media))
    return [MediaItem(kind_of(record), record.name, record.step, _content(folder, record)) for record in media]


def media_difference(found: Iterable[MediaItem], expected: Iterable[MediaItem]) -> str:
    """Return the first difference between two collections of media in any order, as a clause; empty if equal."""
    have, want = list(found), list(expected)
    for item in want:
        if item not in have:
            similar = [other.content for other in have if other[:3] == item[:3]]
            what = f"the {item.kind} {item.name!r} at iteration {item.step}"
            if not similar:
                return f"{what} is not shown"
            return f"{what} has the content {_brief(similar[0])} instead of {_brief(item.content)}"
        have.remove(item)
    if not have:
        return ""
    item = have[0]
    why = "is shown more than once" if item in want else "is shown but was never written"
    return f"the {item.kind} {item.name!r} at iteration {item.step} {why}"


def _content(folder: Path, record: Media) -> Any:
    if isinstance(record, Histogram):
        return tuple(record.edges), tuple(record.counts)
    content = read_blob(folder, record.blob)  # type: ignore[attr-defined] # all other kinds have one
    if isinstance(record, Text):
        return content.decode()
    if isinstance(record, Table):
        table = json.loads(content)
        return tuple(table["columns"]), tuple(map(tuple, table["rows"]))
    return content


def _brief(content: Any) -> str:
    return repr(content)[:200]


def _png(shade: int) -> bytes:
    """Return a gray image of 2 by 2 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    data = zlib.compress((b"\0" + bytes([shade, shade])) * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
