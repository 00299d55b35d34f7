"""The folders in which libraries keep what they compile and download."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from aimnet2mult.config.user_path import expand_user
from aimnet2mult.distributed.rank_info import find_rank_info
from aimnet2mult.errors import ConfigError
from telemetry.terminal import print_line

__all__ = ["VARIABLES", "ensure_cache_folder"]

VARIABLES = {"XDG_CACHE_HOME": "~/.cache", "WARP_CACHE_PATH": "", "TRITON_CACHE_DIR": "~/.triton/cache"}
"""Environment variables and the folders used without them; Warp's is in XDG_CACHE_HOME."""
TRIAL_SIZE = 1 << 20
"""Bytes written to find out whether the disk is full."""


def ensure_cache_folder() -> None:
    """Let libraries such as Warp and wandb use a temporary folder for each cache that cannot be written to.

    Otherwise they fail when they are imported or compile, for example in containers without a home folder, or on a full
    disk. Call this before the imports; delivery processes inherit the settings.

    Raises:
        ConfigError: a temporary folder cannot be created either.
    """
    temporary: Path | None = None
    problems: list[str] = []
    for variable, usual in VARIABLES.items():
        default = usual or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "warp")  # noqa: PTH118 - a text, like usual
        folder = expand_user(os.environ.get(variable) or default)
        if problem := _find_problem(folder):
            temporary = temporary or _temporary_folder(f"{folder}: {problem}")
            os.environ[variable] = str(temporary / variable.lower())
            problems.append(f"{folder}: {problem}")
    if temporary is not None and not find_rank_info(os.environ).rank:
        print_line(f"warning: {', '.join(problems)}; libraries keep their files in {temporary}", err=True)


def _find_problem(folder: Path) -> str:
    """Return why a folder, or the nearest one above it that exists, cannot be written to; "" if it can."""
    try:
        while not os.path.lexists(folder):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TRIAL_SIZE))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _temporary_folder(problem: str) -> Path:
    """Return a folder that later runs of this user find again, unless somebody else may have created it."""
    try:
        folder = Path(tempfile.gettempdir()) / f"aimnet2mult-cache-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder if _is_private(folder) and not _find_problem(folder) else Path(tempfile.mkdtemp())
    except OSError as error:
        raise ConfigError(
            f"{problem}, and a temporary folder cannot be used either ({error}); set TMPDIR to a folder with space"
        ) from error


def _is_private(folder: Path) -> bool:
    """Return whether a path is a folder, and no link, to which only this user has ever had access."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
