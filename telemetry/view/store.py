"""The runs of the live page, shared by all its sessions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from telemetry.display.plot_layout import run_labels
from telemetry.errors import RunFolderError
from telemetry.journal.segments import segments
from telemetry.reading.curve import Curve
from telemetry.reading.find_run import run_folders
from telemetry.view.cached_run import CachedRun
from telemetry.view.run_entry import RunEntry

MAX_BYTES = 500_000_000
"""Default limit of the memory for curves: 20 million points of ended runs."""


class RunStore:
    """The runs of folders, read incrementally; shared by all sessions of the page and safe to use from several threads.

    A point of a curve uses 25 bytes; twice as many while the run may still grow or is not yet delivered. If the curves
    need more than ``max_bytes``, those of the runs that were requested least recently are freed.
    """

    def __init__(self, paths: Sequence[Path], *, max_bytes: int = MAX_BYTES) -> None:
        """Find the runs and read the ends of their journals, which takes about a millisecond per run.

        Args:
            paths: run folders, or folders of runs; new runs in the latter appear later.
            max_bytes: approximate limit of the memory for curves, in bytes; one run may exceed it.

        Raises:
            RunFolderError: a folder cannot be read.
        """
        self._paths = list(paths)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._runs: dict[str, CachedRun] = {}
        self._folders: set[Path] = set()
        for path in self._paths:
            self._add_runs(path)

    def refresh(self) -> None:
        """Find new runs, and read what has been added to the known ones and their curves.

        To be called by one background thread every few seconds. The newest runs are read first, and the results for a
        run can be seen as soon as it has been read.
        """
        for path in self._paths:
            # The known runs below it report that they cannot be read.
            with contextlib.suppress(RunFolderError):
                self._add_runs(path)
        for entry in self.runs():
            self._run(entry.key).refresh()
        self._free_memory()

    def runs(self) -> list[RunEntry]:
        """Return the runs, the one started last first; no file is read."""
        with self._lock:
            entries = [run.entry for run in self._runs.values()]
        labels = run_labels(entries)
        labeled = [replace(entry, label=label) for entry, label in zip(entries, labels, strict=True)]
        return sorted(labeled, key=lambda entry: (-entry.header.started, entry.folder))

    def curves(self, key: str, names: Collection[str]) -> dict[str, Curve]:
        """Return curves of a run by full name, except those without points; the first time, wait for them.

        Raises:
            KeyError: there is no such run.
        """
        with self._lock:
            # The runs are kept in the order of their last requests.
            run = self._runs[key] = self._runs.pop(key)
        curves = run.curves(names)
        self._free_memory()
        return curves

    def version(self, key: str) -> int:
        """Return a number that grows whenever something of a run has changed.

        Raises:
            KeyError: there is no such run.
        """
        return self._run(key).version

    def _run(self, key: str) -> CachedRun:
        with self._lock:
            return self._runs[key]

    def _add_runs(self, path: Path) -> None:
        for folder in [path] if segments(path) else run_folders(path):
            if folder.absolute() not in self._folders:
                self._folders.add(folder.absolute())
                run = CachedRun(folder)
                with self._lock:
                    self._runs[run.entry.key] = run

    def _free_memory(self) -> None:
        with self._lock:
            runs = list(self._runs.values())
        excess = sum(run.memory for run in runs) - self._max_bytes
        for run in runs[:-1]:
            if excess > 0:
                excess -= run.forget()
