"""A new folder that appears under its name only once everything is in it."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from aimnet2mult.errors import ConfigError
from telemetry.run_folder.atomic_write import sync_folder

__all__ = ["new_folder"]


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create a folder beside ``path``, and rename it at the end of the block; after an error, nothing is left of it.

    Raises:
        ConfigError: ``path`` exists and is not an empty folder, or cannot be written.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} already exists; remove it or choose another folder with -o")
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
