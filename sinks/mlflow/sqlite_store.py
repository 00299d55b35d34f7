"""The SQLite file of an MLflow store: made whole, and watched."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

from telemetry.sink_api import SinkRejected, SinkUnavailable, private_opener


class StoreFile:
    """A file that has been found, or made, and must stay the same one.

    Args:
        path: where it is, absolute.
        build: makes a store in a file that is not there, by its URI.

    Raises:
        SinkRejected: the file is no database.
        SinkUnavailable: the file cannot be opened.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, build: Callable[[str], object]) -> None:
        self._path = path
        if not path.exists():
            self._make(build)
        self._check()
        self._identity = self._look()

    def check(self) -> None:
        """Make sure that the file is still the one that was opened.

        Raises:
            SinkUnavailable: somebody has removed it, or has put another in its place.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._look() == self._identity:
                return
        msg = f"{self._path} has been removed, or replaced by another file; it is opened again"
        raise SinkUnavailable(msg)

    def _make(self, build: Callable[[str], object]) -> None:
        """Make the store under another name first.

        Of several processes that make one in place, each migrates the tables that another is just making, and all
        fail; a kill leaves half a store.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            # At once, and not after the many tries that MLflow makes.
            os.close(private_opener(str(new), os.O_CREAT | os.O_EXCL))
            build(f"sqlite:///{new}")
            # Whoever comes second finds the store of the first.
            with contextlib.suppress(FileExistsError):
                os.link(new, self._path)
        finally:
            for left in (new, new.with_name(f"{new.name}-journal")):
                left.unlink(missing_ok=True)

    def _check(self) -> None:
        # MLflow would try for two minutes.
        try:
            with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=rw", uri=True, timeout=5)) as store:
                store.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError as error:
            msg = f"{self._path} cannot be opened: {error}"
            raise SinkUnavailable(msg) from error
        except sqlite3.DatabaseError as error:
            msg = f"{self._path} is no SQLite database ({error}); give another in telemetry.mlflow.tracking_uri"
            raise SinkRejected(msg) from error

    def _look(self) -> tuple[int, int]:
        stat = os.stat(self._path)
        return stat.st_dev, stat.st_ino
