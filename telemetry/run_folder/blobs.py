"""Blobs: the contents of images, tables, texts and artifacts, in files named after their SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from telemetry.errors import SinkRejected
from telemetry.records import Blob


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
        OSError: the file cannot be read.
    """
    path = blob_path(folder, blob)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        msg = f"{path} is missing"
        raise SinkRejected(msg) from error
    if found != blob.sha256:
        msg = f"{path} has changed since it was recorded: its SHA-256 is {found}"
        raise SinkRejected(msg)
    return path


def read_blob(folder: Path, blob: Blob) -> bytes:
    """Return the content of a blob; exceptions as for ``verified_blob``."""
    return verified_blob(folder, blob).read_bytes()
