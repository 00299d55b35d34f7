"""Names and locations of the small files in a run folder (for the journal, see ``journal.segments``).

- ``alive.json``: heartbeat of the trainer
- ``sinks/<name>.json``: delivery progress of a sink
- ``sinks/<name>.lease-<n>``: lease of the process that delivers to the sink (see ``run_folder.lease``)
- ``sinks/<name>.log``: output of its delivery process
- ``sinks/<name>.rejected.jsonl``: records that the sink rejected
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from telemetry.errors import RunFolderError

_SINKS = "sinks"
# At least two characters: a single letter is a drive. Path() reduces the slashes after the colon to one.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a run folder given by a user, with ``~`` expanded.

    Raises:
        RunFolderError: it is empty, or a URL, or it starts with the home folder of an unknown user.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        msg = f"{text!r} is not a path of a run folder; choose a folder, such as runs/first"
        raise RunFolderError(msg)
    if _URL.match(text):
        msg = f"{text} is a URL, but a run folder must be a local path; use a folder of this machine or a mounted one"
        raise RunFolderError(msg)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        msg = f"{text}: there is no such home folder"
        raise RunFolderError(msg) from error


def heartbeat_path(folder: Path) -> Path:
    """Return the path of a run's heartbeat file."""
    return folder / "alive.json"


def sinks_folder(folder: Path) -> Path:
    """Return the folder for the files of the sinks.

    Raises:
        RunFolderError: it is a symbolic link; in a run folder from an untrusted source, it may lead outside.
    """
    path = folder / _SINKS
    if path.is_symlink():
        msg = f"{path} is a link, and writing there could change files outside the run folder; remove it"
        raise RunFolderError(msg)
    return path


def progress_path(folder: Path, sink: str) -> Path:
    """Return the path of a sink's progress file."""
    return folder / _SINKS / f"{sink}.json"


def log_path(folder: Path, sink: str) -> Path:
    """Return the path of the log of a sink's delivery process."""
    return folder / _SINKS / f"{sink}.log"


def rejected_path(folder: Path, sink: str) -> Path:
    """Return the path of the file of records that a sink rejected, one per line as in the journal."""
    return folder / _SINKS / f"{sink}.rejected.jsonl"


def delivered_sinks(folder: Path) -> list[str]:
    """Return the names of the sinks that have a progress file, because a delivery to them has been started."""
    return sorted(path.stem for path in (folder / _SINKS).glob("*.json") if not path.name.startswith("."))
