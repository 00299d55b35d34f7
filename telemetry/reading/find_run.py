"""Find the folder of a run that a user names: by its path, its ID, its name, or the beginning of one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from telemetry.errors import RunFolderError, RunNotFound, TelemetryError, did_you_mean
from telemetry.journal.reader import read_header
from telemetry.journal.segments import segments
from telemetry.run_folder.paths import local_path, shell_path

RUNS = Path("runs")
"""The folder in which runs are searched by ID, which is the default folder of the trainer."""
_MAX_LISTED = 5
"""Number of runs listed in a message."""


def find_run(name: str | os.PathLike[str], runs: Path = RUNS) -> Path:
    """Return the folder of a run.

    Args:
        name: path of the run folder. The last part of the path may be abbreviated to a unique beginning of the run's ID
            or name; without another part, the run is searched in ``runs``.
        runs: a folder of runs.

    Raises:
        RunNotFound: there is no such run, or more than one.
        RunFolderError: the folder cannot be read.
    """
    path = local_path(name)
    # A folder with a segment is a run even if it is damaged: reading it then tells what is wrong.
    if segments(path):
        return path
    folder = runs if path.parent == Path() else path.parent
    found = _matching(path.name, folder) if path.name else []
    if len(found) > 1:
        listed = ", ".join(each.name for each in found[:_MAX_LISTED])
        more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
        msg = f"{path.name!r} could be any of {len(found)} runs in {folder}: {listed}{more}; give one of these IDs"
        raise RunNotFound(msg)
    if not found:
        raise RunNotFound(_message(path, folder))
    return found[0]


def is_folder_of_runs(path: Path) -> bool:
    """Return whether a folder contains run folders and is not a run folder itself."""
    return path.is_dir() and not segments(path) and bool(_run_folders(path))


def run_folders(folder: Path) -> list[Path]:
    """Return the run folders in ``folder``, and those that cannot be listed and may be run folders.

    Raises:
        RunFolderError: ``folder`` cannot be listed.
    """
    try:
        found = [folder / name for name in sorted(os.listdir(folder))]
    except FileNotFoundError:
        remedy = "start a run here, or give the folder that contains the run folders"
        msg = f"there is no folder {folder.absolute()}; {remedy}"
        raise RunFolderError(msg) from None
    except OSError as error:
        msg = f"{folder} cannot be read ({error.strerror}); specify the folder that contains the run folders"
        raise RunFolderError(msg) from error
    return [each for each in found if os.path.isdir(each) and _may_be_run(each)]  # noqa: PTH112 - Path.is_dir may raise


def _may_be_run(folder: Path) -> bool:
    try:
        return bool(segments(folder))
    except RunFolderError:
        return True


def _matching(text: str, folder: Path) -> list[Path]:
    """Return the runs with the name ``text``, newest last; without any, those whose ID or name begins with it."""
    folders = _run_folders(folder)
    beginning = [each for each in folders if each.name.startswith(text)]
    if len(beginning) == 1:
        return beginning
    # Headers are read only now, because there may be thousands.
    names = dict(_names(folders))
    exact = [each for each in folders if text in names.get(each, ())]
    return exact or beginning or [each for each in names if any(name.startswith(text) for name in names[each])]


def _names(folders: Sequence[Path]) -> Iterator[tuple[Path, tuple[str, str]]]:
    for folder in folders:
        try:
            header = read_header(folder)
        except TelemetryError:
            continue
        yield folder, (header.run_id, header.name)


def _run_folders(folder: Path) -> list[Path]:
    try:
        return run_folders(folder)
    except RunFolderError:
        return []


def _message(path: Path, folder: Path) -> str:
    if is_folder_of_runs(path):
        return f"{path} is not a run, but a folder of runs; list them: telemetry list {shell_path(path)}"
    if path.is_dir():
        return f"no run in {path}: it contains no journal-<k>.jsonl"
    if path.exists():
        return f"no run in {path}: it is a file; give the run folder that contains the journal"
    known = [each.name for each in _run_folders(folder)]
    hint = did_you_mean(path.name, known)
    if folder == path.parent:
        return f"no run in {path}: there is no such folder{hint}"
    where = f"{folder}" if known else f"{folder}, which {'contains no runs' if folder.is_dir() else 'does not exist'}"
    return f"no run {path.name!r}: there is no such folder, and no run with this ID or name in {where}{hint}"
