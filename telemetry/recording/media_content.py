"""Encode the contents of texts, tables, histograms and artifacts."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from telemetry.records import AnyMedia, Artifact, Histogram, Table, Text, json_number
from telemetry.redaction import redact, redact_text

if TYPE_CHECKING:
    import numpy as np

BINS = 64
"""Number of bins of the histogram of values."""
MAX_TITLE = 250
"""Maximum number of characters of a caption, a file name or a type."""
_IMMUTABLE = (float, int, str, bytes, type(None))
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,16}")


class Encoded(NamedTuple):
    """A content, and the class and the fields of its record.

    Attributes:
        record: the class of the record.
        fields: its fields, except those of every record of media.
        content: the content of the blob, or the file that contains it; None if there is no blob.
        suffix: the suffix of the blob.
        left_out: number of values left out.
    """

    record: type[AnyMedia]
    fields: dict[str, Any]
    content: bytes | Path | None = None
    suffix: str = ""
    left_out: int = 0


def snapshot(content: Any) -> Any:
    """Return a content that does not change when the caller reuses its object, in the thread of the caller.

    Arrays are copied, also those in lists; a tensor on a GPU, by the GPU, without waiting for it. A matplotlib figure
    is drawn.
    """
    if isinstance(content, _IMMUTABLE):
        return content
    if isinstance(content, list | tuple):
        return [snapshot(part) for part in content]
    if hasattr(content, "savefig"):
        return drawn(content)
    if hasattr(content, "detach"):
        return content.detach().clone()
    if hasattr(content, "__array__") and hasattr(content, "copy"):
        return content.copy()
    return bytes(content) if isinstance(content, bytearray | memoryview) else content


def drawn(figure: Any) -> bytes:
    """Return a matplotlib figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def size_of(content: Any) -> int:
    """Return the approximate size of a content in memory, in bytes; 0 if it is not known, as for a callable."""
    if isinstance(content, list):
        return sum(100 * len(row) if isinstance(row, Sequence) else 100 for row in content)
    size = getattr(content, "nbytes", None)
    if isinstance(size, int):
        return size
    return len(content) if isinstance(content, str | bytes) else 0


def as_array(content: Any) -> np.ndarray[Any, Any]:
    """Return an array, a sequence or a tensor on any device as an array.

    Raises:
        Exception: it is none of them.
    """
    import numpy as np

    if hasattr(content, "detach"):
        content = content.detach().cpu()
        # NumPy has no type for the 16-bit numbers of machine learning.
        content = content.float() if "bfloat16" in str(getattr(content, "dtype", "")) else content
    return np.asarray(content)


def title(text: object) -> str:
    """Return a short text without credentials, as valid Unicode."""
    return _unicode(redact_text(str(text)))[:MAX_TITLE]


def encode_text(text: object) -> Encoded:
    """Encode a text."""
    return Encoded(Text, {}, _unicode(redact_text(str(text))).encode(), ".md")


def encode_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Encoded:
    """Encode a table.

    Raises:
        ValueError: a row is not as long as ``columns``.
        TypeError: it is not a table.
    """
    names = [str(column) for column in columns]
    cells: list[list[Any]] = []
    for number, row in enumerate(rows, 1):
        values = list(row)
        if len(values) != len(names):
            msg = f"row {number} has {len(values)} values for {len(names)} columns"
            raise ValueError(msg)
        cells.append([_cell(value, name) for name, value in zip(names, values, strict=True)])
    content = {"columns": [_unicode(redact_text(name)) for name in names], "rows": cells}
    return Encoded(Table, {}, msgspec.json.encode(content), ".json")


def encode_histogram(content: Any, *, given: bool) -> Encoded:
    """Encode the histogram of values, or of ``given`` edges and counts.

    Raises:
        ValueError: it is not a histogram; or there are no finite values.
        Exception: the values are not numbers.
    """
    import numpy as np

    if given:
        edges, counts = (as_array(part).astype(np.float64).ravel() for part in content)
        if len(edges) != len(counts) + 1 or not np.isfinite([*edges, *counts]).all() or (counts < 0).any():
            msg = f"{len(edges)} edges and {len(counts)} counts; expected finite numbers, one more edge, counts from 0"
            raise ValueError(msg)
        if (np.diff(edges) <= 0).any():
            msg = "the edges of the bins are not ascending"
            raise ValueError(msg)
        return Encoded(Histogram, {"edges": edges.tolist(), "counts": counts.tolist()})
    values = as_array(content)
    if values.dtype.kind == "c":
        msg = f"the values have the type {values.dtype}; expected real numbers"
        raise ValueError(msg)
    values = values.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    if not len(finite):
        msg = f"none of the {len(values)} values is finite"
        raise ValueError(msg)
    number, bounds = np.histogram(finite, bins=BINS)
    fields = {"edges": bounds.tolist(), "counts": number.astype(float).tolist()}
    return Encoded(Histogram, fields, left_out=len(values) - len(finite))


def encode_artifact(type: str, path: str | os.PathLike[str]) -> Encoded:  # noqa: A002 - the name in the API
    """Encode a file.

    Raises:
        ValueError: it is missing, or not a regular file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        msg = f"{file} is {'not a file' if file.exists() else 'missing'}"
        raise ValueError(msg)
    suffix = file.suffix if _SUFFIX.fullmatch(file.suffix) else ""
    return Encoded(Artifact, {"file": title(file.name), "type": title(type)}, file, suffix)


def _cell(value: Any, column: str) -> str | float | bool | None:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return json_number(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    cell: str = redact(str(value), column)
    return _unicode(cell)


def _unicode(text: str) -> str:
    return text.encode(errors="replace").decode()
