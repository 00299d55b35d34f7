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
import shlex
from pathlib import Path

from telemetry.errors import RunFolderError, TelemetryError
from telemetry.records import is_sink_name

_SINKS = "sinks"
# At least two characters: a single letter is a drive. Path() reduces the slashes after the colon to one.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(
    path: str | os.PathLike[str], what: str = "the run folder", error: type[TelemetryError] = RunFolderError
) -> Path:
    """Return a path given by a user, with ``~`` expanded.

    Args:
        path: the path.
        what: what it is the path of, or the option that contains it, for error messages.
        error: the exception to raise.

    Raises:
        TelemetryError: it is empty, or a URL, or it starts with the home folder of an unknown user.
    """
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        msg = f"{what} is {text!r}, which is not a path; choose a folder, such as runs/first"
        raise error(msg)
    if _URL.match(text):
        msg = f"{what} is {text!r}, a URL; choose a local path, of this machine or of a mounted file system"
        raise error(msg)
    try:
        return Path(text).expanduser()
    except RuntimeError as unknown:
        msg = f"{what} is {text!r}: there is no such home folder"
        raise error(msg) from unknown


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
    return [name for name in _progress_names(folder) if is_sink_name(name)]


def misnamed_sinks(folder: Path) -> list[str]:
    """Return the names of files that would be progress files if they were names of sinks."""
    return [name for name in _progress_names(folder) if not is_sink_name(name)]


def _progress_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / _SINKS).glob("*.json") if not path.name.startswith("."))


def shell_path(path: Path) -> str:
    """Return a path as an argument in a suggested command: quoted for the shell, and not mistaken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def near(path: Path) -> str:
    """Return a path relative to the working directory if it is below it, so that it fits into a line."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
