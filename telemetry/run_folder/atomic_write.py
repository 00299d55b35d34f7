"""Small JSON files beside the journal, replaced whole by rename."""

from __future__ import annotations

import glob
import itertools
import os
import stat
from pathlib import Path
from typing import TypeVar

import msgspec

MAX_BYTES = 1 << 20
"""A file that is larger than this is not ours, and is not read."""

T = TypeVar("T")
_serial = itertools.count()


def private(path: str, flags: int) -> int:
    """Open a file that holds parameters: ``open(path, "a", opener=private)``.

    One that is made can be read by its owner only, and a link is not followed.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by the JSON of ``value``, readable by the owner only.

    Raises:
        OSError: it could not be written; the old content is then still there.
    """
    data = msgspec.json.encode(value) + b"\n"
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{next(_serial)}.tmp")
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        tmp.replace(path)
    except OSError:
        tmp.unlink(missing_ok=True)
        raise


def remove_drafts(path: Path) -> None:
    """Remove what writers of ``path`` left beside it that were killed; one that still writes fails, and may try again.

    Raises:
        OSError: the folder cannot be read or written to.
    """
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        draft.unlink(missing_ok=True)


def read_json(path: Path, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Give the content of ``path``; None if it is not there, too large, or not what the decoder is for.

    The decoder is to be made when its module is imported: to make one, msgspec runs Python code in the middle, and
    where another thread or a signal's handler then decodes the same type, the process crashes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_BYTES:
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            return decoder.decode(file.read(MAX_BYTES))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
