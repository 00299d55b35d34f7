"""The checkpoint files of a run folder: their names, the newest complete one, and pruning. Does not import torch.

A checkpoint is ``checkpoints/step-00001200.pt``. The iteration is part of the name, so that it is known before torch
is imported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aimnet2mult.errors import CheckpointError
from aimnet2mult.models.torch_file import ZIP_ERRORS, open_archive
from telemetry.run_folder.atomic_write import TEMPORARY_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "best_path",
    "checkpoint_path",
    "diverged_path",
    "final_path",
    "find_damaged",
    "find_newest",
    "iteration_of",
    "prune",
    "rename_diverged",
]

FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d{8,})\.pt")
TEMPORARY = re.compile(rf"\.(step-\d{{8,}}|best|final|diverged)\.pt{TEMPORARY_SUFFIX}|step-\d{{8,}}\.tmp")
"""Names of files left by a killed trainer; the last form is that of version 0.1."""


def checkpoint_path(run: Path, iteration: int) -> Path:
    """Return the path of the checkpoint after an iteration."""
    return run / FOLDER / f"step-{iteration:08d}.pt"


def diverged_path(run: Path) -> Path:
    """Return the path of the state of a diverged run; no run is resumed from it."""
    return run / FOLDER / "diverged.pt"


def best_path(run: Path) -> Path:
    """Return the path of the weights of the best validation."""
    return run / FOLDER / "best.pt"


def final_path(run: Path) -> Path:
    """Return the path of the final weights, which are written as an artifact."""
    return run / FOLDER / "final.pt"


def iteration_of(path: Path) -> int:
    """Return the iteration after which a checkpoint was taken.

    Raises:
        CheckpointError: the file is not named like a checkpoint.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not a checkpoint: expected a name like step-00001200.pt")
    return int(match[1])


def find_newest(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    return next((path for path in reversed(_find_all(run)) if _is_complete(path)), None)


def find_damaged(run: Path) -> list[Path]:
    """Return the checkpoints after the newest complete one."""
    found = _find_all(run)
    newest = find_newest(run)
    return found if newest is None else found[found.index(newest) + 1 :]


def prune(latest: Path, *, keep: int, last_healthy_step: int) -> None:
    """Remove old checkpoints after ``latest`` has been written.

    Args:
        latest: the checkpoint that was written; it is kept, together with the keep - 1 checkpoints before it. Later
            ones are removed, because they are damaged or superseded by a resume.
        keep: number of checkpoints to keep, at least 1.
        last_healthy_step: last healthy iteration; the newest checkpoint up to it is always kept.

    Raises:
        OSError: a file cannot be removed.
    """
    found = _find_all(latest.parent.parent)
    position = found.index(latest)
    healthy = [path for path in found if iteration_of(path) <= last_healthy_step][-1:]
    outdated, superseded = found[: max(0, position + 1 - keep)], found[position + 1 :]
    temporary = [path for path in latest.parent.iterdir() if TEMPORARY.fullmatch(path.name)]
    for path in [*outdated, *superseded, *temporary]:
        if path not in healthy:
            path.unlink(missing_ok=True)


def rename_diverged(run: Path, *, after: int) -> None:
    """Rename the checkpoints later than iteration ``after`` to ``diverged-step-….pt``, so that a resume ignores them.

    Raises:
        OSError: a file cannot be renamed.
    """
    for path in _find_all(run):
        if iteration_of(path) > after:
            path.replace(path.with_name(f"diverged-{path.name}"))


def _find_all(run: Path) -> list[Path]:
    found = (path for path in (run / FOLDER).glob("step-*.pt") if NAME.fullmatch(path.name))
    return sorted(found, key=iteration_of)


def _is_complete(path: Path) -> bool:
    try:
        with open_archive(path) as (_, archive):
            return archive.testzip() is None
    except (OSError, *ZIP_ERRORS):
        return False
