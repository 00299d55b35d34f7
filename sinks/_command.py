"""The command of a backend, as a person has to type it."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def command(name: str) -> str:
    """Give a command by its name, with its path where that of the shell does not lead to this environment's."""
    beside = Path(sys.executable).with_name(name)
    return shlex.quote(str(beside)) if beside.exists() and shutil.which(name) != str(beside) else name
