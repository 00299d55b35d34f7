"""The names and the order of the files of a journal."""

from __future__ import annotations

import os
import re
from pathlib import Path

from telemetry.errors import RunFolderError

_SEGMENT_NAME = re.compile(r"journal-(0|[1-9][0-9]{0,8})\.jsonl")


def segments(folder: Path, *, readable: bool = False) -> list[int]:
    """Return the numbers of the segments in ``folder``, in order; empty if the folder is missing.

    Args:
        folder: the run folder.
        readable: whether to leave out links, named pipes and anything else that is not a regular file.

    Raises:
        RunFolderError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            named = [(m, entry) for entry in entries if (m := _SEGMENT_NAME.fullmatch(entry.name))]
            return sorted(int(m[1]) for m, entry in named if not readable or entry.is_file(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        msg = f"cannot list {folder} ({error.strerror})"
        raise RunFolderError(msg) from error


def segment_path(folder: Path, segment: int) -> Path:
    """Return the path of a segment."""
    return folder / f"journal-{segment}.jsonl"
