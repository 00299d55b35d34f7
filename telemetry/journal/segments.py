"""The files of a journal: their names and order."""

from __future__ import annotations

import os
import re
from pathlib import Path

from telemetry.errors import RunFolderError

_SEGMENT_NAME = re.compile(r"journal-(0|[1-9][0-9]{0,8})\.jsonl")


def segments(folder: Path) -> list[int]:
    """Give the numbers of the segments in ``folder``, in order; none if the folder is not there.

    Raises:
        RunFolderError: it is there and cannot be listed.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        msg = f"{folder} cannot be read ({error.strerror})"
        raise RunFolderError(msg) from error
    return sorted(int(m[1]) for m in map(_SEGMENT_NAME.fullmatch, names) if m)


def segment_path(folder: Path, segment: int) -> Path:
    """Give the path of a segment's file."""
    return folder / f"journal-{segment}.jsonl"
