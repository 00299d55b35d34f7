"""Blobs: the contents of images, tables, texts and artifacts, in files named after their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from telemetry.errors import SinkRejected
from telemetry.records import Blob
from telemetry.run_folder.regular_file import open_regular


def blobs_folder(folder: Path) -> Path:
    """Return the folder of the blobs of a run."""
    return folder / "blobs"


def blob_path(folder: Path, blob: Blob) -> Path:
    """Return the file of a blob in a run folder; ``verified_blob`` also checks its content."""
    return blobs_folder(folder) / blob.file


def verified_blob(folder: Path, blob: Blob) -> Path:
    """Return the file of a blob whose size and checksum are right.

    Raises:
        SinkRejected: the file is missing, or its content has changed; delivery sets the record aside.
        OSError: the file cannot be read, or is not a regular file.
    """
    with _opened(folder, blob) as file:
        _check(folder, blob, hashlib.file_digest(file, "sha256").hexdigest())
    return blob_path(folder, blob)


def read_blob(folder: Path, blob: Blob) -> bytes:
    """Return the content of a blob, ``blob.size`` bytes; exceptions as for ``verified_blob``."""
    with _opened(folder, blob) as file:
        content = file.read(blob.size)
    _check(folder, blob, hashlib.sha256(content).hexdigest())
    return content


@contextlib.contextmanager
def _opened(folder: Path, blob: Blob) -> Iterator[BufferedReader]:
    """Open the file of a blob whose size is right. The folder may come from an untrusted source."""
    path = blob_path(folder, blob)
    try:
        with open(path, "rb", opener=open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            if size != blob.size:
                msg = f"{path} has changed since it was recorded: it has {size:,} bytes instead of {blob.size:,}"
                raise SinkRejected(msg)
            yield file
    except FileNotFoundError as error:
        msg = f"{path} is missing"
        raise SinkRejected(msg) from error


def _check(folder: Path, blob: Blob, found: str) -> None:
    if found != blob.sha256:
        msg = f"{blob_path(folder, blob)} has changed since it was recorded: its SHA-256 is {found}"
        raise SinkRejected(msg)
