"""The SQLite file of an MLflow store: created atomically, and checked for replacement."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from telemetry.sink_api import SinkRejected, SinkUnavailable

_LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that has locked the database; MLflow would retry for two minutes."""


class SqliteStore:
    """The SQLite file of a store, which must not be replaced while it is in use.

    Args:
        path: absolute path of the file; the store is created if the file is missing.
        create: function that creates a store, given its URI.
        mode: permissions of a new file, before the umask.
        unshared: the path as it was chosen by default, which must not belong to another user; None if this user has
            named the store.

    Raises:
        SinkRejected: the file is not a database, or belongs to another user.
        SinkUnavailable: the file cannot be opened.
        OSError: the file cannot be created.
    """

    def __init__(
        self, path: Path, create: Callable[[str], object], mode: int = 0o600, *, unshared: Path | None = None
    ) -> None:
        self._path = path
        if not path.exists():
            self._create(create, mode)
        # SQLite trusts its journal: with that of somebody else, it would change the database.
        if unshared is not None and (foreign := find_foreign(unshared)):
            msg = (
                f"{foreign} belongs to another user, who could read or change what this run stores there; if that is "
                f"intended, set telemetry.mlflow.tracking_uri=sqlite:///{unshared}"
            )
            raise SinkRejected(msg)
        self._check_is_database()
        self._file_id = self._current_file_id()

    def check_unchanged(self) -> None:
        """Check that the path still refers to the file that was opened.

        Raises:
            SinkUnavailable: the file has been removed or replaced.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._current_file_id() == self._file_id:
                return
        msg = f"{self._path} has been removed or replaced by another file; opening it again"
        raise SinkUnavailable(msg)

    def _create(self, create: Callable[[str], object], mode: int) -> None:
        """Create the store under a temporary name first.

        If several processes created it in place, each would migrate tables that another one has only partly created,
        and all would fail. A kill would leave an incomplete store.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            # Fails at once if the folder is not writable; MLflow would retry many times.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
            create(f"sqlite:///{temporary}")
            # If another process was faster, use its store.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, self._path)
        finally:
            for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
                leftover.unlink(missing_ok=True)

    def _check_is_database(self) -> None:
        # Only a delivery opens the store: the trainer, which loads the sink, does without 1 MB of memory.
        import sqlite3

        uri = f"{self._path.as_uri()}?mode=rw"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT)) as store:
                store.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError as error:
            msg = f"{self._path} cannot be opened: {error}"
            raise SinkUnavailable(msg) from error
        except sqlite3.DatabaseError as error:
            msg = (
                f"{self._path} is not an SQLite database ({error}); set telemetry.mlflow.tracking_uri to another store"
            )
            raise SinkRejected(msg) from error

    def _current_file_id(self) -> tuple[int, int]:
        stat = os.stat(self._path)
        return stat.st_dev, stat.st_ino


def find_foreign(path: Path) -> Path | None:
    """Return a file of an SQLite database that belongs neither to this user nor to root; None if there is none."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            if file.lstat().st_uid not in {0, os.geteuid()}:
                return file
    return None
