"""The folder in which libraries keep what they compile and download."""

import os
import tempfile
from pathlib import Path

from aimnet2mult.config.user_path import expand_user

__all__ = ["ensure_cache_folder"]

VARIABLE = "XDG_CACHE_HOME"


def ensure_cache_folder() -> None:
    """Make libraries such as Warp and wandb use a temporary cache folder if the user's cannot be written to.

    Otherwise they fail when they are imported, for example in containers without a home folder. Call this before the
    imports; delivery processes inherit the setting.
    """
    if not _is_writable(Path(os.environ.get(VARIABLE) or expand_user("~/.cache"))):
        os.environ[VARIABLE] = str(_temporary_folder())


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary_folder() -> Path:
    """Return a folder that later runs of this user find again, unless somebody else has created it."""
    folder = Path(tempfile.gettempdir()) / f"aimnet2mult-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owned = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return folder if owned and _is_writable(folder) else Path(tempfile.mkdtemp())
