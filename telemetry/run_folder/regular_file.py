"""Open regular files only: no symbolic links, and nothing whose opening or reading could wait for somebody else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

NOT_REGULAR = errno.EINVAL
"""Error number of the OSError for a path that is not a regular file."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
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
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise _not_regular(_kind(mode), path)
    return fd


def open_output(path: str, flags: int) -> int:
    """Open a file that the user has named for output: ``open(path, "w", opener=open_output)``.

    It may also be a device or a named pipe with a reader, and a link that belongs to the user or to root, such as
    ``/dev/stdout``. The umask determines the permissions of a new file.

    Raises:
        OSError: the file cannot be opened, or is the link of another user, or a named pipe that nothing reads.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            # In a shared folder, others may have put a link to one of the user's files here.
            if error.errno != errno.ELOOP or os.lstat(path).st_uid not in {0, os.geteuid()}:
                raise
            fd = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(errno.ENXIO, "a named pipe that nothing reads", path) from None
        raise _explained(error, path) from None
    os.set_blocking(fd, True)
    return fd


def _explained(error: OSError, path: str | Path) -> OSError:
    if error.errno == errno.ELOOP:
        return _not_regular("a symbolic link", path)
    if error.errno == errno.ENXIO:  # a socket, or a named pipe that is opened for writing while nothing reads it
        return _not_regular(_kind(os.lstat(path).st_mode), path)
    return error


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _not_regular(found: str, path: str | Path) -> OSError:
    return OSError(NOT_REGULAR, f"not a regular file but {found}", os.fspath(path))
