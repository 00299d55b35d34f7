"""Check where the final weights are to be written, before a long training."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from aimnet2mult.errors import Problems

__all__ = ["check_writable"]


def check_writable(path: Path | None, problems: Problems) -> None:
    """Collect a problem if the file for the final weights cannot be written."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.exists() and not path.is_file():
        problems.add(f"--save {path}: it is not a file; choose another name")
    elif path.exists() and not os.access(path, os.W_OK):
        problems.add(f"--save {path}: the file is write-protected; remove it or choose another name")
    elif path.exists() and _is_sticky(path):
        problems.add(
            f"--save {path}: the file belongs to another user, and only they can replace it; choose another name"
        )
    elif not os.access(folder, os.W_OK | os.X_OK):
        problems.add(f"--save {path}: cannot write to the folder {folder}; create it or choose another")


def _is_sticky(path: Path) -> bool:
    """Return whether a file cannot be replaced because of the sticky bit of its folder, such as /tmp."""
    folder = path.absolute().parent.stat()
    return bool(folder.st_mode & stat.S_ISVTX) and os.geteuid() not in {0, folder.st_uid, path.lstat().st_uid}
