"""Open regular files only: no symbolic links, and nothing whose opening or reading could wait for somebody else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file and return its descriptor; also usable as an opener: ``open(path, opener=open_regular)``.

    A new file (``os.O_CREAT``) is readable by its owner only, unless ``mode`` says otherwise.

    Raises:
        OSError: the path is missing, cannot be opened, or is a symbolic link or anything but a regular file.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _explained(error, path) from None
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise _not_regular(_KINDS.get(kind, "something else"), path)
    return fd


def _explained(error: OSError, path: str | Path) -> OSError:
    if error.errno == errno.ELOOP:
        return _not_regular("a symbolic link", path)
    if error.errno == errno.ENXIO:  # a socket, or a pipe without a reader that is opened for writing
        return _not_regular("a named pipe or socket", path)
    return error


def _not_regular(found: str, path: str | Path) -> OSError:
    return OSError(errno.EINVAL, f"not a regular file but {found}", os.fspath(path))
