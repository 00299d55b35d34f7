"""The files that wandb reads from the working directory, which may be the folder of a run from somebody else."""

from __future__ import annotations

import configparser
import os
import stat
from pathlib import Path

from telemetry.sink_api import SinkRejected, SinkUnavailable

_HARMLESS = {"mode", "project", "entity"}
"""Settings that ``wandb init`` and ``wandb offline`` save in the working directory."""
_DEFAULTS = {"base_url": "https://api.wandb.ai"}
"""The value that earlier versions of ``wandb init`` saved there as well."""
_SECTION = "default"


def check_working_folder() -> None:
    """Check the files that wandb would read from the working directory.

    Its settings file has precedence over that of the user, so a ``base_url`` in it would receive the key of the user.
    wandb cannot be told to ignore the file.

    Raises:
        SinkRejected: the settings file contains a setting other than the mode, the project and the entity that differs
            from the user's own, or one of the files is a link or not a regular file.
        SinkUnavailable: one of the files cannot be read.
    """
    folder = Path(".wandb" if Path(".wandb").exists() else "wandb")
    _require_regular_file(Path("config-defaults.yaml"))
    _require_regular_file(folder / "settings")
    own = _DEFAULTS | _read(_own_settings_file())
    for name, value in _read(folder / "settings").items():
        is_overridden = name == "base_url" and os.environ.get("WANDB_BASE_URL")
        if name not in _HARMLESS and value != own.get(name) and not is_overridden:
            remedy = " or set WANDB_BASE_URL" if name == "base_url" else ""
            msg = (
                f"wandb: {(folder / 'settings').absolute()} sets {name}, and wandb would use it with your key; start "
                f"the command in another folder{remedy}"
            )
            raise SinkRejected(msg)


def _own_settings_file() -> Path:
    return Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings"


def _require_regular_file(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        msg = f"wandb: {path.absolute()} cannot be read: {error.strerror}"
        raise SinkUnavailable(msg) from error
    if not stat.S_ISREG(mode):
        msg = (
            f"wandb: {path.absolute()}, which wandb would read, is a link or not a regular file; start the command in "
            "another folder"
        )
        raise SinkRejected(msg)


def _read(path: Path) -> dict[str, str]:
    """Return the settings in a file as wandb reads them, in the locale's encoding; none if it cannot be parsed."""
    parser = configparser.ConfigParser()
    try:
        parser.read(path)
        return dict(parser.items(_SECTION)) if parser.has_section(_SECTION) else {}
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
