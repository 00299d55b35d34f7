"""Write blobs into a run folder, up to a total size and number."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from telemetry.records import Blob
from telemetry.run_folder.atomic_write import TEMPORARY_SUFFIX, atomic_write
from telemetry.run_folder.blobs import blob_path, blobs_folder
from telemetry.run_folder.permissions import make_folder

MAX_BLOBS = 10_000
"""Maximum number of blobs of a run."""
_TEMPORARY = re.compile(rf"\..+{TEMPORARY_SUFFIX}")
_CHUNK = 1 << 20


class BlobsFull(Exception):
    """A blob exceeds the total size or number."""


class BlobStore:
    """The blobs of a run, with those of earlier attempts. Not thread-safe.

    Args:
        folder: the run folder.
        megabytes: maximum total size of the blobs, in 10⁶ bytes.
        number: maximum number of blobs.
    """

    def __init__(self, folder: Path, megabytes: int, number: int = MAX_BLOBS) -> None:
        self._folder = folder
        self._megabytes = megabytes
        self._number = number
        self._sizes: dict[str, int] | None = None

    def add(self, content: bytes | Path, suffix: str) -> Blob:
        """Write a content, or the copy of a file, durably unless the run has a blob with it; return the blob.

        Raises:
            BlobsFull: the blob exceeds the total size or number.
            ValueError: the file cannot be read, or changes meanwhile.
            OSError: the blob cannot be written.
        """
        sizes = self._present()
        blob = _blob(content, suffix)
        path = blob_path(self._folder, blob)
        # Somebody may have removed it, or the whole folder, during the run.
        if sizes.get(blob.file) == blob.size and path.exists():
            return blob
        sizes.pop(blob.file, None)
        if len(sizes) >= self._number:
            msg = f"the run has {len(sizes):,} blobs, the maximum"
            raise BlobsFull(msg)
        if sum(sizes.values()) + blob.size > self._megabytes * 10**6:
            msg = f"the blobs of the run would exceed {self._megabytes} MB; set telemetry.blobs_mb"
            raise BlobsFull(msg)
        make_folder(path.parent)
        atomic_write(path, content if isinstance(content, bytes) else lambda file: _copy(content, blob, file))
        sizes[blob.file] = blob.size
        return blob

    def _present(self) -> dict[str, int]:
        """Return the sizes of the blobs by file name; at first, remove what a killed attempt has left half-written."""
        if self._sizes is None:
            make_folder(blobs_folder(self._folder))
            with os.scandir(blobs_folder(self._folder)) as entries:
                files = [(entry, entry.stat(follow_symlinks=False)) for entry in entries]
            for entry, _ in files:
                if _TEMPORARY.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        Path(entry.path).unlink()
            regular = [(entry, found) for entry, found in files if stat.S_ISREG(found.st_mode)]
            self._sizes = {e.name: found.st_size for e, found in regular if not _TEMPORARY.fullmatch(e.name)}
        return self._sizes


def _blob(content: bytes | Path, suffix: str) -> Blob:
    if isinstance(content, bytes):
        return Blob(sha256=hashlib.sha256(content).hexdigest(), size=len(content), suffix=suffix)
    digest, size = hashlib.sha256(), 0
    for part in _parts(content):
        digest.update(part)
        size += len(part)
    return Blob(sha256=digest.hexdigest(), size=size, suffix=suffix)


def _copy(source: Path, blob: Blob, target: BinaryIO) -> None:
    digest = hashlib.sha256()
    for part in _parts(source):
        digest.update(part)
        target.write(part)
    if digest.hexdigest() != blob.sha256:
        msg = f"{source} has changed while it was copied"
        raise ValueError(msg)


def _parts(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except OSError as error:
        msg = f"cannot read {path} ({error.strerror})"
        raise ValueError(msg) from error
    with file:
        while part := _read(file, path):
            yield part


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:
        msg = f"cannot read {path} ({error.strerror})"
        raise ValueError(msg) from error
