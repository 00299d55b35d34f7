"""Find the run folders in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from telemetry.errors import RunFolderError
from telemetry.journal.segments import segments


def run_folders(folder: Path) -> list[Path]:
    """Return the run folders in ``folder``, sorted by name; a run folder contains only itself.

    Folders that cannot be listed are included, so that their runs are not overlooked.

    Raises:
        RunFolderError: the folder cannot be read.
    """
    if segments(folder):
        return [folder]
    try:
        found = [folder / name for name in os.listdir(folder)]
    except OSError as error:
        msg = f"{folder} cannot be read ({error.strerror}); specify the folder that contains the run folders"
        raise RunFolderError(msg) from error
    # Unlike Path.is_dir, os.path.isdir never raises.
    return sorted(each for each in found if os.path.isdir(each) and _may_be_run(each))  # noqa: PTH112


def _may_be_run(folder: Path) -> bool:
    try:
        return bool(segments(folder))
    except RunFolderError:
        return True
