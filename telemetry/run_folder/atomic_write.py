"""Write files atomically and durably, and read the small JSON files of a run folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from telemetry.run_folder.permissions import file_mode, grant
from telemetry.run_folder.regular_file import open_regular

MAX_BYTES = 1 << 20
"""Maximum size of a file to be read, in bytes; telemetry writes no larger ones."""
TEMPORARY_SUFFIX = r"\.([0-9a-f]{16}|[0-9]+\.[0-9]+)\.tmp"
"""Pattern of what follows ``.<name>`` in the name of a temporary file; earlier versions used the process ID."""

T = TypeVar("T")


def private_opener(path: str, flags: int) -> int:
    """Open a file that contains parameters: ``open(path, "a", opener=private_opener)``.

    A new file is readable by its owner only, or also by the group if its folder is (``telemetry.mode``). Symbolic links
    are not followed, and only regular files are opened.

    Raises:
        OSError: the path is a link or not a regular file, or cannot be opened.
    """
    mode = file_mode(Path(path).parent)
    fd = open_regular(path, flags, mode)
    if flags & os.O_CREAT:
        grant(fd, mode)
    return fd


def atomic_write(
    path: Path,
    content: bytes | memoryview | Callable[[BinaryIO], object],
    *,
    mode: int | None = None,
    sync: bool = True,
) -> None:
    """Replace ``path`` as a whole; on return, the content and the name are durable.

    A crash leaves the old content, possibly along with a temporary file (see ``remove_temporary_files``).

    Args:
        path: the file; its folder must exist.
        content: the bytes, or a callable that writes them to the given file.
        mode: permissions of the new file, before the umask; by default, those of the files of a run: readable by the
            owner only, or also by the group if its folder is (``telemetry.mode``).
        sync: whether to wait until the disk has the file. Without it, a power cut may leave an empty file.

    Raises:
        OSError: the file could not be written; the old content is unchanged, and the temporary file is removed.
    """
    # A random name, because others may write to the folder too: nobody can put another file there beforehand.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    allowed = file_mode(path.parent) if mode is None else mode
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, allowed)
    try:
        with os.fdopen(fd, "wb") as file:
            if mode is None:
                grant(fd, allowed)
            if callable(content):
                content(file)
            else:
                file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # On a full disk, it would occupy space that the journal needs.
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names of new and renamed files in ``folder`` durable, if the file system supports it.

    Raises:
        OSError: the folder cannot be opened.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError:
        # Some file systems reject the sync of a directory; they write names along with the data.
        return
    finally:
        with contextlib.suppress(OSError):  # the descriptor is closed either way
            os.close(fd)


def remove_temporary_files(path: Path) -> None:
    """Remove temporary files left by killed writers of ``path``; a writer still running then fails and may retry.

    Raises:
        OSError: the folder cannot be read or written to.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}{TEMPORARY_SUFFIX}")
    for name in os.listdir(path.parent):
        if pattern.fullmatch(name):
            # In a folder such as /tmp, those of other users cannot be removed, and do not matter.
            with contextlib.suppress(PermissionError):
                path.with_name(name).unlink(missing_ok=True)


def write_json(path: Path, value: object, *, sync: bool = True) -> None:
    """Replace ``path`` with the JSON of ``value``; ``sync`` as for ``atomic_write``.

    Raises:
        OSError: the file could not be written.
    """
    atomic_write(path, msgspec.json.encode(value) + b"\n", sync=sync)


def read_json(path: Path, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return the decoded content of ``path``; None if it is missing, too large, or does not match the decoder's type.

    Create the decoder at import time: msgspec runs Python code while it builds one, and the process crashes if another
    thread or a signal handler decodes the same type in the meantime.
    """
    try:
        fd = open_regular(path)
    except OSError:
        return None
    if os.fstat(fd).st_size > MAX_BYTES:
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            return decoder.decode(file.read(MAX_BYTES))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
