"""Permissions of the files and folders of a run: for their owner only, or readable by the group.

The permissions of the run folder decide: everything created in it gets the same ones. ``telemetry.mode`` only sets
those of the run folder of a new run, so ``chmod -R`` changes them later, even while the run is in progress.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Mode = Literal["private", "group"]
UMASKS: dict[Mode, int] = {"private": 0o077, "group": 0o027}
"""The permissions that are withheld from new files and folders."""
_GROUP_READS = stat.S_IRGRP | stat.S_IXGRP


def mode_of(folder: str | Path) -> Mode:
    """Return ``group`` if the group may list and enter a folder and others have no access; otherwise ``private``.

    Earlier versions created folders that everybody may enter, with private files.
    """
    try:
        permissions = os.stat(folder).st_mode
    except OSError:
        return "private"
    allowed, others = permissions & _GROUP_READS, permissions & stat.S_IRWXO
    return "group" if allowed == _GROUP_READS and not others else "private"


def file_mode(folder: str | Path) -> int:
    """Return the permissions of a new file in ``folder``, or of one that belongs to the run in ``folder``."""
    return 0o666 & ~UMASKS[mode_of(folder)]


def grant(fd: int, mode: int) -> None:
    """Add the read permission in ``mode`` that a strict umask has withheld from a new file."""
    permissions = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & ~permissions & stat.S_IRGRP:
        with contextlib.suppress(OSError):  # some file systems have no permissions
            os.fchmod(fd, permissions | stat.S_IRGRP)


def make_folder(path: Path, mode: Mode | None = None) -> bool:
    """Create a folder unless it exists, and return whether it was created.

    Args:
        path: the folder; its parent must exist.
        mode: who may read it; by default, the same as its parent.

    Raises:
        OSError: it cannot be created, or is a link or a file: a link in a run folder from somebody else may lead
            anywhere.
    """
    allowed = 0o777 & ~UMASKS[mode or mode_of(path.parent)]
    try:
        path.mkdir(mode=allowed)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            what = "a link" if path.is_symlink() else "a file"
            raise OSError(errno.ENOTDIR, f"{path.name} is {what} instead of a folder", os.fspath(path)) from None
        return False
    _set_permissions(path, allowed)
    return True


def make_run_folder(path: Path, mode: Mode) -> None:
    """Create a run folder and the missing folders above it; if it exists, change its permissions only if necessary.

    Raises:
        OSError: it cannot be created, is not a folder, or belongs to another user, who could read and change the run.
    """
    make_parents(path, mode)
    # The run folder itself may be a link, to another file system for example.
    path.mkdir(mode=0o777 & ~UMASKS[mode], exist_ok=True)
    if path.stat().st_uid != owner_of_new_files(path):
        raise OSError(errno.EPERM, "it belongs to another user", os.fspath(path))
    if mode_of(path) != mode:
        _set_permissions(path, 0o777 & ~UMASKS[mode])


def owner_of_new_files(folder: Path) -> int:
    """Return the user to whom the files that this process creates in a folder belong.

    Some file systems map all users to one.

    Raises:
        OSError: a file cannot be created there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_uid


def make_parents(path: Path, mode: Mode) -> None:
    """Create the missing folders above ``path``.

    Raises:
        OSError: a folder cannot be created.
    """
    for folder in reversed([folder for folder in path.parents if not folder.exists()]):
        make_folder(folder, mode)


def closed_to_group(path: Path) -> Path | None:
    """Return a folder above ``path`` that the group cannot enter; None if it can enter all of them."""
    may_enter = stat.S_IXGRP | stat.S_IXOTH
    return next((folder for folder in path.resolve().parents if not folder.stat().st_mode & may_enter), None)


@contextlib.contextmanager
def umask_of(folder: Path) -> Iterator[None]:
    """Let everything that this process creates have the permissions of the run in ``folder``."""
    before = os.umask(UMASKS[mode_of(folder)])
    try:
        yield
    finally:
        os.umask(before)


def _set_permissions(path: Path, allowed: int) -> None:
    """Give a folder the permissions ``allowed``, whatever the umask; keep the bit that passes its group on."""
    permissions = stat.S_IMODE(path.stat().st_mode)
    if permissions & 0o777 != allowed:
        with contextlib.suppress(OSError):  # it belongs to another user, or the file system has no permissions
            path.chmod(permissions & ~0o777 | allowed)
