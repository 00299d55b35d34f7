"""The default output folder of a sink, and the command-line tool of its backend."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from telemetry.sink_api import SinkRejected


def default_folder(run: Path, sink: str) -> Path:
    """Return the absolute path of the folder named after the sink in the run folder.

    Raises:
        SinkRejected: it is a symbolic link. In a run folder from an untrusted source, it could point anywhere.
    """
    path = run.resolve() / sink
    if path.is_symlink():
        msg = (
            f"{path} is a link to {path.resolve()}; links in a run folder are not followed, because a run folder from "
            f"an untrusted source could contain links to any path. Set telemetry.{sink}.dir to the target, or remove "
            "the link"
        )
        raise SinkRejected(msg)
    return path


def shell_command(name: str) -> str:
    """Return the shell command for a program in this environment, with its full path unless ``PATH`` finds it."""
    installed = Path(sys.executable).with_name(name)
    return shlex.quote(str(installed)) if installed.exists() and shutil.which(name) != str(installed) else name
