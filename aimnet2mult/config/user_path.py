"""Expansion of ``~`` in paths that users supply."""

import os
from pathlib import Path

__all__ = ["expand_user"]


def expand_user(path: str | Path) -> Path:
    """Return a path with a leading ``~`` or ``~name`` expanded, or unchanged if there is no such user."""
    # Path.expanduser raises RuntimeError for an unknown user.
    return Path(os.path.expanduser(path))  # noqa: PTH111
