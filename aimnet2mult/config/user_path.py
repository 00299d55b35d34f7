"""Expansion of ``~`` in paths that users supply."""

import os
from pathlib import Path

__all__ = ["expand_user", "is_file", "is_folder"]


def expand_user(path: str | Path) -> Path:
    """Return a path with a leading ``~`` or ``~name`` expanded, or unchanged if there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def is_file(path: str | Path) -> bool:
    """Return whether a file exists; False as well for a path that no file can have, such as one that is too long."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for such a path


def is_folder(path: str | Path) -> bool:
    """Return whether a folder exists; False as well for a path that no folder can have."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for such a path
