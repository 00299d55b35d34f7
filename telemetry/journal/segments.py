"""The names and the order of the files of a journal."""

from __future__ import annotations

import os
import re
from pathlib import Path

from telemetry.errors import RunFolderError

_SEGMENT_NAME = re.compile(r"journal-(0|[1-9][0-9]{0,8})\.jsonl")


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments in ``folder``, in order; empty if the folder is missing.

    Raises:
        RunFolderError: the folder cannot be listed.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        msg = f"cannot list {folder} ({error.strerror})"
        raise RunFolderError(msg) from error
    return sorted(int(m[1]) for m in map(_SEGMENT_NAME.fullmatch, names) if m)


def segment_path(folder: Path, segment: int) -> Path:
    """Return the path of a segment."""
    return folder / f"journal-{segment}.jsonl"
