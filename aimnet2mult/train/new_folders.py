"""The folder of a new run, and the folders above it. Does not import torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from aimnet2mult.config import resume_rules
from aimnet2mult.errors import ConfigError
from telemetry.run_folder.permissions import UMASKS, Mode, make_parents

__all__ = ["create_folders", "remove_empty"]


def create_folders(directory: Path, run_name: str, mode: Mode) -> list[Path]:
    """Create the folder of a run, and return it followed by the new folders above it.

    Args:
        directory: the folder of all runs.
        run_name: name of the run, to which the time is appended.
        mode: who may read the folders.

    Raises:
        ConfigError: the folder cannot be created.
    """
    now = time.time()
    try:
        above = [path for path in (directory, *directory.parents) if not path.exists()]
        make_parents(directory / run_name, mode)
        for number in count(1):
            folder = directory / resume_rules.run_name_at(run_name, now, number)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o777 & ~UMASKS[mode])
                return [folder, *above]
    except OSError as error:
        raise ConfigError(
            f"telemetry.dir: cannot write to {directory}: {error.strerror}; choose another with --telemetry-dir"
        ) from error
    raise AssertionError


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
