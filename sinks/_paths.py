"""Where a sink writes by default, and where the commands of its backend are."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from telemetry.sink_api import SinkRejected


def own_folder(run: Path, sink: str) -> Path:
    """Give the folder of the run that is called as the sink is, absolute.

    Raises:
        SinkRejected: it is a link. A run folder may come from elsewhere, and would have the sink write anywhere.
    """
    path = run.resolve() / sink
    if path.is_symlink():
        msg = (
            f"{path} is a link to {path.resolve()}, and a run folder from elsewhere could have it lead anywhere; to "
            f"write there, set telemetry.{sink}.dir to it, or remove the link"
        )
        raise SinkRejected(msg)
    return path


def command(name: str) -> str:
    """Give a command by its name, with its path where that of the shell does not lead to this environment's."""
    beside = Path(sys.executable).with_name(name)
    return shlex.quote(str(beside)) if beside.exists() and shutil.which(name) != str(beside) else name
