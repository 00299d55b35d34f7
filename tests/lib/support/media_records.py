"""Records of media whose contents are in a run folder, one of each kind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.recording.png import encode_image
from telemetry.sink_api import Artifact, Blob, Histogram, Image, Media, Table, Text
from telemetry.testing.points import STARTED

TEXT = "# Notes\n\n* `a|b` <b>bold</b> & é"
COLUMNS = ["element", "RMSE", "atoms"]
ROWS: list[list[Any]] = [["H", 0.1, 12], ["a|b", "NaN", 3], ["<i>", None, 0]]
EDGES, COUNTS = [-1.0, 0.0, 0.5, 2.0], [3.0, 0.0, 7.0]
WEIGHTS = bytes(range(256)) * 10


def png(width: int = 3, height: int = 2, shade: int = 200) -> bytes:
    """Return a gray image."""
    content = encode_image("", np.full((height, width), shade, np.uint8)).content
    assert isinstance(content, bytes)
    return content


def blob(folder: Path, content: bytes, suffix: str = "") -> Blob:
    """Store a content in a run folder."""
    found = Blob(sha256=hashlib.sha256(content).hexdigest(), size=len(content), suffix=suffix)
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / found.file).write_bytes(content)
    return found


def fields(seq: int, name: str, step: int | None = None) -> dict[str, Any]:
    """Return the fields that all records of media have, by default at iteration 10·seq."""
    return {
        "seq": seq,
        "time": STARTED + 1001 * (seq % 10**9),
        "name": name,
        "step": 10 * seq if step is None else step,
    }


def text(folder: Path, seq: int, name: str = "val/notes", content: str = TEXT, step: int | None = None) -> Text:
    """Return the record of a text."""
    return Text(**fields(seq, name, step), blob=blob(folder, content.encode(), ".md"))


def table(folder: Path, seq: int, name: str = "val/errors", rows: list[list[Any]] | None = None) -> Table:
    """Return the record of a table."""
    content = json.dumps({"columns": COLUMNS, "rows": ROWS if rows is None else rows}).encode()
    return Table(**fields(seq, name), blob=blob(folder, content, ".json"))


def image(folder: Path, seq: int, name: str = "val/parity/E", step: int | None = None, shade: int = 200) -> Image:
    """Return the record of an image."""
    content = blob(folder, png(shade=shade), ".png")
    return Image(**fields(seq, name, step), blob=content, width=3, height=2, caption="parity of *E*")


def histogram(seq: int, name: str = "val/residuals") -> Histogram:
    """Return the record of a histogram."""
    return Histogram(**fields(seq, name), edges=EDGES, counts=COUNTS)


def artifact(folder: Path, seq: int, name: str = "best/weights") -> Artifact:
    """Return the record of an artifact."""
    return Artifact(**fields(seq, name), blob=blob(folder, WEIGHTS, ".pt"), file="model.pt", type="model")


def one_of_each(folder: Path, first: int = 1) -> list[Media]:
    """Return a record of each kind, with consecutive numbers."""
    return [
        text(folder, first),
        table(folder, first + 1),
        image(folder, first + 2),
        histogram(first + 3),
        artifact(folder, first + 4),
    ]
