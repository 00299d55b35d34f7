"""Texts, tables, images, histograms and artifacts as files among the artifacts of an MLflow run.

The path of a file depends only on the journal, so delivering a record again replaces its file.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sinks.mlflow.client import Client, http_status
from sinks.mlflow.names import valid_name
from telemetry.sink_api import (
    Artifact,
    Histogram,
    Image,
    Record,
    SinkRejected,
    Table,
    Text,
    file_mode,
    format_error,
    read_table,
    read_text,
    verified_blob,
)

ShownMedia = Text | Table | Image | Histogram | Artifact

IMAGES_TAG = "mlflow.loggedImages"
"""The tag for which MLflow's page of curves shows the images, too."""
_MAX_NAME_LENGTH = 150
"""Maximum number of characters of a name in a path: file names have up to 255."""
_INVALID_CHARACTER = re.compile(r"[^A-Za-z0-9_\-./ ]")
_BAD_REQUEST, _SERVER_ERROR = 400, 500
_RETRIED = {401, 408, 429}
"""HTTP statuses of errors of the client after which the same upload may succeed."""


class File(NamedTuple):
    """A file to upload: its content, or the file that contains it, and its path among the artifacts."""

    path: PurePosixPath
    content: bytes | Path


class MediaFiles:
    """The files of the media of one run.

    Args:
        client: an ``MlflowClient``.
        run_id: MLflow's ID of the run.
        folder: the run folder, which contains the contents.
    """

    def __init__(self, client: Client, run_id: str, folder: Path) -> None:
        self._client, self._run_id, self._folder = client, run_id, folder
        self._last_seq = 0

    def upload(self, records: Iterable[Record]) -> dict[str, str]:
        """Upload the files of records that this instance has not uploaded yet, and return the tags for them.

        Raises:
            SinkRejected: the content of a record is missing or has changed, or MLflow does not accept it.
        """
        tags = {}
        for record in records:
            if isinstance(record, ShownMedia):
                if record.seq > self._last_seq:
                    self._upload(record)
                    self._last_seq = record.seq
                if isinstance(record, Image):
                    tags = {IMAGES_TAG: "true"}
        return tags

    def _upload(self, record: ShownMedia) -> None:
        for file in _files(self._folder, record):
            with tempfile.TemporaryDirectory() as folder:
                named = Path(folder) / file.path.name
                # MLflow takes the name from the local file.
                if isinstance(file.content, Path):
                    named.symlink_to(file.content)
                else:
                    # As accessible as the run folder; a local store copies the permissions.
                    named.touch(mode=file_mode(self._folder))
                    named.write_bytes(file.content)
                with _upload_errors(record):
                    self._client.log_artifact(self._run_id, str(named), str(file.path.parent))


def _files(folder: Path, record: ShownMedia) -> Iterator[File]:
    """Yield the files of a record."""
    name = _valid_path(record.name, _MAX_NAME_LENGTH)
    # With zeros, because MLflow sorts by name.
    place = f"{type(record).__name__.lower()}s/{name}/{record.step:09d}-{record.seq}"
    if isinstance(record, Text):
        yield File(PurePosixPath(f"{place}.md"), read_text(folder, record).encode())
    elif isinstance(record, Table):
        table = read_table(folder, record)
        yield File(PurePosixPath(f"{place}.csv"), _csv(table.columns, table.rows))
    elif isinstance(record, Histogram):
        bins = zip(record.edges[:-1], record.edges[1:], record.counts, strict=True)
        yield File(PurePosixPath(f"{place}.csv"), _csv(["from", "to", "count"], bins))
    elif isinstance(record, Image):
        path = verified_blob(folder, record.blob)
        # As MLflow's own log_image names them; it shows the smaller one in charts.
        stem = f"images/{name.replace('/', '~')}+step+{record.step}+timestamp+{record.time}+{record.seq}"
        yield File(PurePosixPath(f"{stem}.png"), path)
        yield File(PurePosixPath(f"{stem}+compressed.png"), path)
    else:
        file = _valid_path(PurePosixPath(record.file).name or record.blob.file, _MAX_NAME_LENGTH)
        yield File(PurePosixPath(f"{place}/{file}"), verified_blob(folder, record.blob))


def _csv(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()


def _valid_path(name: str, max_length: int) -> str:
    """Return a name as a relative path that every store accepts."""
    # Longer names end with their checksum.
    return _INVALID_CHARACTER.sub("_", valid_name(name, max_length))


@contextlib.contextmanager
def _upload_errors(record: ShownMedia) -> Iterator[None]:
    """Translate the errors of an upload that would fail again: points must not wait for it.

    Raises:
        SinkRejected: MLflow cannot store the file, or a package that it needs for this store is missing.
    """
    try:
        yield
    except Exception as error:
        is_permanent = isinstance(error, ImportError | PermissionError | FileNotFoundError | NotADirectoryError)
        if is_permanent or (_BAD_REQUEST <= _status(error) < _SERVER_ERROR and _status(error) not in _RETRIED):
            msg = f"mlflow cannot store {record.name} at iteration {record.step}: {format_error(error)}"
            raise SinkRejected(msg) from error
        raise


def _status(error: Exception) -> int:
    """Return the HTTP status of an error of MLflow or of requests; 0 for any other error."""
    return http_status(error) or getattr(getattr(error, "response", None), "status_code", 0)
