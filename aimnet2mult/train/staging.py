"""Copying of data to a disk of each machine, by one of its ranks, before the training."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from aimnet2mult.data.cache.entry import open_entry
from aimnet2mult.data.cache.source import find_source
from aimnet2mult.data.cache.stores import Locations
from aimnet2mult.data.sizes import size_text
from aimnet2mult.distributed.rank_info import find_rank_info
from aimnet2mult.train.console import PROGRESS_INTERVAL
from aimnet2mult.train.plan import echo
from telemetry.run_folder.permissions import make_folder, make_parents

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config
    from aimnet2mult.data.report import Report
    from aimnet2mult.distributed.communicator import Communicator
    from aimnet2mult.distributed.stop_consensus import StopConsensus

__all__ = ["Staging", "stage_data"]

POLL_INTERVAL = 0.5
"""Seconds between two exchanges with the other ranks."""
CHUNK = 1 << 24
"""Number of bytes that are copied at once."""


class Cancelled(Exception):
    """The training is stopped while data are copied."""


def stage_data(
    config: Config, report: Report, communicator: Communicator, consensus: StopConsensus
) -> Locations | None:
    """Copy the data as `Staging` does, and return where this rank reads them; None if the training is to stop."""
    staging = Staging(config, report, communicator)
    while staging.is_pending():
        if consensus.should_stop(now=True):
            staging.cancel()
            return None
    return staging.locations


class Staging:
    """Copies of caches, and of data files that are read directly, on a disk of this machine.

    The first rank of each machine copies, in a thread, while all ranks stay in contact: however long it takes, none of
    them times out. Copies from earlier jobs are used again. Whatever goes wrong, the data are read where they are.

    Args:
        config: The settings.
        report: The result of checking the data.
        communicator: Communicator of the ranks.
        local_rank: Index of this rank on its machine; by default, as set by torchrun or SLURM.
    """

    def __init__(
        self, config: Config, report: Report, communicator: Communicator, *, local_rank: int | None = None
    ) -> None:
        self._caches = report.cache_folders
        self._communicator = communicator
        self._cancelled = threading.Event()
        self._future: Future[None] | None = None
        self._copies: dict[Path, Path] = {}
        local_rank = find_rank_info(os.environ).local_rank if local_rank is None else local_rank
        if config.data.stage is None or not report.caches:
            return
        # Other users must not be able to put other data there.
        folder = Path(config.data.stage) / f"aimnet2mult-{os.getuid()}"
        self._copies = {source: folder / _name(source) for source in self._sources(report.caches)}
        if not local_rank:
            pool = ThreadPoolExecutor(1)
            self._future = pool.submit(self._stage, folder)
            pool.shutdown(wait=False)

    def is_pending(self) -> bool:
        """Return whether data are still being copied on any machine; all ranks must call this."""
        pending = self._future is not None and not wait([self._future], POLL_INTERVAL).done
        return bool(self._communicator.all_reduce_max([int(pending)])[0])

    def cancel(self) -> None:
        """Stop copying."""
        self._cancelled.set()
        if self._future is not None:
            wait([self._future])

    @property
    def locations(self) -> Locations:
        """Where this rank reads the data."""
        staged = {source: copy for source, copy in self._copies.items() if _is_usable(source, copy)}
        return Locations(
            caches={path: staged.get(folder, folder) for path, folder in self._caches.items()},
            copies={str(source): copy for source, copy in staged.items() if source not in self._caches.values()},
        )

    def _sources(self, files: Mapping[str, Path | None]) -> Iterator[Path]:
        """Yield the caches with records, and the data files that are, at least in part, read directly."""
        for path, folder in files.items():
            entry = None if folder is None else open_entry(folder)
            if entry is not None and folder is not None and entry.manifest.groups:
                yield folder
            if entry is None or not entry.manifest.complete:
                yield Path(path)

    def _stage(self, folder: Path) -> None:
        try:
            make_parents(folder, "private")
            make_folder(folder, "private")
            missing = {source: copy for source, copy in self._copies.items() if not _is_usable(source, copy)}
            needed = sum(file.stat().st_size for source in missing for file in _files(source))
            _check_folder(folder, needed)
            progress = _Progress(needed, folder)
            for source, copy in missing.items():
                self._copy(source, copy, progress)
        except Cancelled:
            pass
        except OSError as error:
            echo(
                f"warning: {socket.gethostname()}: the data cannot be copied to {folder} ({error.strerror or error}); "
                "they are read where they are",
                err=True,
            )

    def _copy(self, source: Path, copy: Path, progress: Callable[[int], None]) -> None:
        temporary = copy.with_name(f".{copy.name}.{secrets.token_hex(8)}.tmp")
        try:
            if source.is_dir():
                temporary.mkdir()
            for file in _files(source):
                target = temporary / file.name if source.is_dir() else temporary
                with file.open("rb") as reader, target.open("xb") as writer:
                    while chunk := reader.read(CHUNK):
                        if self._cancelled.is_set():
                            raise Cancelled
                        writer.write(chunk)
                        progress(len(chunk))
            if not copy.exists():
                # Another job may have been faster.
                temporary.rename(copy)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


class _Progress:
    """Lines that tell how much has been copied."""

    def __init__(self, total: int, folder: Path) -> None:
        self._total, self._folder = total, folder
        self._done = 0
        self._next_at = time.monotonic() + PROGRESS_INTERVAL
        if total:
            echo(f"{socket.gethostname()}: copying {size_text(total)} of data to {folder}", err=True)

    def __call__(self, size: int) -> None:
        self._done += size
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + PROGRESS_INTERVAL
            done = f"{size_text(self._done)} of {size_text(self._total)}"
            echo(f"{socket.gethostname()}: copied {done} to {self._folder}", err=True)


def _check_folder(folder: Path, needed: int) -> None:
    """Check that a folder is ours, and that there is space for a number of bytes.

    Raises:
        OSError: It is not, or there is none.
    """
    if folder.stat().st_uid != os.getuid():
        raise OSError(errno.EPERM, "it belongs to another user")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"it takes {size_text(needed)}, but only {size_text(free)} are free")


def _name(source: Path) -> str:
    """Return a name that is unique for the source and its state."""
    digest = sha256(repr((str(source.absolute()), find_source(source))).encode()).hexdigest()
    return f"{source.stem}-{digest[:16]}{source.suffix if source.is_file() else ''}"


def _is_usable(source: Path, copy: Path) -> bool:
    """Return whether a copy has all files of the source, with their sizes; their names tell their state."""
    try:
        return [(file.name if source.is_dir() else "", file.stat().st_size) for file in _files(source)] == [
            (file.name if copy.is_dir() else "", file.stat().st_size) for file in _files(copy)
        ]
    except OSError:
        return False


def _files(path: Path) -> list[Path]:
    """Return the files of a cache or a data set."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if not file.name.startswith("."))
