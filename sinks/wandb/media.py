"""Texts, tables, images, histograms and artifacts as the objects of wandb."""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from sinks.wandb.stored_run import ITERATION_KEY
from telemetry.sink_api import (
    Artifact,
    Histogram,
    Image,
    Record,
    SinkRejected,
    Table,
    TelemetryError,
    Text,
    format_error,
    is_installed,
    read_table,
    read_text,
    verified_blob,
)

ShownMedia = Text | Table | Image | Histogram | Artifact

_MAX_ROWS = 200_000
"""Maximum number of rows of a table of W&B."""
_MAX_NAME_LENGTH = 128
"""Maximum number of characters in the name and in the type of an artifact."""
_MAX_KEY_LENGTH = 150
"""Maximum length of a key in bytes: wandb appends up to 100 to make a file name."""
_UNSAFE = re.compile(r"[\\*\0]")
"""An asterisk would be a pattern for ``define_metric``."""
_RESERVED_TYPE = re.compile(r"wandb-|run_table$|job$|code$")


def contents_size(records: Iterable[Record]) -> int:
    """Return the size of the contents of media in bytes."""
    return sum(record.blob.size for record in records if isinstance(record, Text | Table | Image | Artifact))


class MediaRows:
    """The rows of media of one run.

    Args:
        folder: the run folder, which contains the contents.
        metrics: the full names of the metrics, whose keys show numbers; a newer collection may be assigned.
    """

    def __init__(self, folder: Path, metrics: Container[str]) -> None:
        self.metrics = metrics
        self._folder = folder

    def row(self, run: Any, record: ShownMedia) -> dict[str, Any]:
        """Return the row of a record in an open run, without the keys of the sink; log the record if an artifact.

        Raises:
            SinkRejected: the content is missing or has changed, or W&B cannot show it.
        """
        if isinstance(record, Artifact):
            _log_artifact(run, self._folder, record)
            return {}
        # wandb stores a table as an artifact, too, named run-<ID>-<key>-<checksum>.
        max_length = _MAX_NAME_LENGTH - len(f"run-{run.id}--123456") if isinstance(record, Table) else _MAX_KEY_LENGTH
        key = key_of(record, self.metrics, max_length)
        run.define_metric(key, step_metric=ITERATION_KEY)
        try:
            return {key: _to_object(self._folder, record)}
        except Exception as error:
            # An error of the disk has a number, and passes; one of Pillow, also an OSError, has none.
            if isinstance(error, TelemetryError | ImportError) or getattr(error, "errno", None) is not None:
                raise
            msg = f"wandb cannot show {record.name} at iteration {record.step}: {format_error(error)}"
            raise SinkRejected(msg) from error


def key_of(record: ShownMedia, metrics: Container[str], max_length: int = _MAX_KEY_LENGTH) -> str:
    """Return the key of a record: its name, unless it is that of a metric, or an unsafe path for a copy of the content.

    W&B shows a key with values of several types only as one of them. A key that is too long, in bytes, ends with a
    checksum.
    """
    name = f"{record.name} ({type(record).__name__.lower()})" if record.name in metrics else record.name
    data = name.encode()
    if len(data) > max_length:
        name = f"{data[: max_length - 9].decode(errors='ignore')}_{zlib.crc32(data):08x}"
    parts = _UNSAFE.sub("_", name).split("/")
    return "/".join("_" * max(1, len(part)) if part in {"", ".", ".."} else part for part in parts)


def artifact_name(record: Artifact, run_id: str) -> str:
    """Return the name of an artifact, which must differ from those of other runs in the project."""
    suffix = f"-{run_id}"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", record.name)
    return f"{name[: _MAX_NAME_LENGTH - len(suffix)]}{suffix}"


def artifact_type(record: Artifact) -> str:
    """Return the type of an artifact; types that W&B uses itself get a prefix."""
    name = re.sub(r"[^A-Za-z0-9_. -]+", "-", record.type)[: _MAX_NAME_LENGTH - 5] or "file"
    return f"user-{name}" if _RESERVED_TYPE.match(name) else name


def _log_artifact(run: Any, folder: Path, record: Artifact) -> None:
    """Log an artifact, and wait until it is uploaded: the row that confirms it could be stored before.

    W&B recognizes a version that it already has by its content.
    """
    import wandb

    artifact = wandb.Artifact(artifact_name(record, run.id), artifact_type(record))
    # Without copies: the content in the run folder never changes.
    path, name = verified_blob(folder, record.blob), PurePosixPath(record.file).name or record.blob.file
    artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
    try:
        logged = run.log_artifact(artifact, aliases=["latest", f"iteration-{record.step}"])
    except ValueError as error:
        # An artifact of this name has another type.
        msg = f"wandb refuses {record.name} at iteration {record.step}: {format_error(error)}"
        raise SinkRejected(msg) from error
    if not run.offline:
        logged.wait()


def _to_object(folder: Path, record: Text | Table | Image | Histogram) -> Any:
    import wandb

    if isinstance(record, Text):
        # W&B has no Markdown in rows.
        text = html.escape(read_text(folder, record), quote=False)
        return wandb.Html(
            f'<meta charset="utf-8"><pre style="white-space: pre-wrap">{text}</pre>',
            inject=False,
            data_is_not_path=True,
        )
    if isinstance(record, Table):
        table = read_table(folder, record)
        return wandb.Table(columns=[*table.columns], data=table.rows[:_MAX_ROWS], allow_mixed_types=True)
    if isinstance(record, Image):
        if not is_installed("PIL"):
            msg = "wandb cannot show images without Pillow: pip install pillow"
            raise SinkRejected(msg)
        return wandb.Image(str(verified_blob(folder, record.blob)), caption=record.caption or None)
    import numpy as np

    return wandb.Histogram(np_histogram=(np.array(record.counts), np.array(record.edges)))
