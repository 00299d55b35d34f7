"""The folder of the caches of data files: finding the cache of a file, and building it once."""

import contextlib
import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from aimnet2mult.data.cache.builder import SAVE_INTERVAL, Builder, records_of
from aimnet2mult.data.cache.entry import Entry, open_entry
from aimnet2mult.data.cache.manifest import GroupRecords, Manifest, Reading, write_manifest
from aimnet2mult.data.cache.record_file import RecordFile
from aimnet2mult.data.cache.source import Source, checksum, find_source
from aimnet2mult.data.checks import scan_file
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_scan import FileScan
from aimnet2mult.data.layout import open_file, read_layout
from aimnet2mult.errors import DataError
from telemetry.run_folder.atomic_write import sync_folder
from telemetry.run_folder.lease import RENEWAL_INTERVAL, Lease
from telemetry.run_folder.permissions import make_folder, make_parents, mode_of, umask_of

__all__ = ["DataCache", "size_text"]

POLL_INTERVAL = 1.0
"""Seconds between looks at a cache that another process builds."""


class Superseded(Exception):
    """Another process has taken over the build, because this one was suspended for long."""


@dataclass(kw_only=True)
class DataCache:
    """The caches of data files that are read in the same way."""

    folder: Path
    reading: Reading
    say: Callable[[str], object]
    """Called with each message."""
    progress: Callable[[Path, int, int], object] = lambda *_: None
    """Called with a file, the number of its structures that have been read, and their total."""
    save_interval: float = SAVE_INTERVAL
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _renewed_at: float = field(default=0.0, init=False)

    def find(self, path: Path) -> tuple[Entry, FileContent] | None:
        """Return the cache of a file, and what the checks have found in it; None if there is no valid one.

        A file that has been copied or touched since is recognized by its checksum.
        """
        source = find_source(path)
        entries = [entry for entry in self._entries() if entry.manifest.reading.covers(self.reading)]
        entry = next((entry for entry in entries if source in entry.manifest.sources), None)
        if entry is None:
            entry = self._find_copy(path, source, [entry for entry in entries if _may_equal(entry, source)])
        return None if entry is None else self._open(entry, path)

    def build(self, path: Path, scan: Callable[[], FileScan]) -> tuple[Entry | None, FileContent]:
        """Check a file, and build its cache in the same pass; wait for another process that is building it.

        If the cache cannot be written, a message tells so, and the file is only checked.

        Args:
            path: The file.
            scan: Returns a scan of the file that has not begun.

        Returns:
            The cache, if it could be written, and what the checks have found.

        Raises:
            DataError: The file has changed in the meantime.
        """
        source = find_source(path)
        target = self.folder / self._name(path, source)
        try:
            make_parents(target, mode_of(self.folder.parent))
            while True:
                lease = Lease(self.folder, f".{target.name}", clock=self.clock)
                if (found := self._wait(path, target, lease)) is not None:
                    return found
                with contextlib.suppress(Superseded), umask_of(self.folder):
                    try:
                        return self._build(path, source, scan(), target, lease)
                    finally:
                        lease.release()
        except OSError as error:
            self._give_up(path, error)
        content = scan_file(scan())
        _check_unchanged(path, source)
        return None, content

    def _wait(self, path: Path, target: Path, lease: Lease) -> tuple[Entry, FileContent] | None:
        """Wait until this process may build a cache, or return it once another process has built it."""
        announced = False
        while not lease.try_acquire():
            if not announced:
                holder = lease.holder() or "another process"
                self.say(f"waiting for the data cache of {path}, which {holder} is building")
                announced = True
            self.sleep(POLL_INTERVAL)
        self._renewed_at = self.clock()
        entry = open_entry(target)
        found = None if entry is None else self._open(entry, path)
        if found is not None:
            lease.release()
        elif target.exists():
            shutil.rmtree(target)
        return found

    def _build(
        self, path: Path, source: Source, scan: FileScan, target: Path, lease: Lease
    ) -> tuple[Entry | None, FileContent]:
        partial = target.with_name(f".{target.name}.partial")
        total = self._check_space(path, scan, target, partial)
        if total is None:
            return None, scan_file(scan)

        def report(done: int) -> None:
            self._renew(lease)
            self.progress(path, done, total)

        make_folder(partial)
        builder = Builder(
            folder=partial, scan=scan, progress=report, save_interval=self.save_interval, clock=self.clock
        )
        builder.restore()
        content = scan_file(scan, builder)
        if not len(content.report.errors):
            builder.finish(content)
        manifest = None
        try:
            digest = checksum(path, lambda: self._renew(lease))
            _check_unchanged(path, source)
            if builder.error is None and not len(content.report.errors):
                manifest = self._publish(path, source, builder.groups, digest, partial, target)
        except OSError as error:
            builder.error = error
        except DataError:
            builder.remove()
            raise
        if manifest is None:
            builder.remove()
            if builder.error is not None:
                self._give_up(path, builder.error)
            return None, content
        entry = Entry(folder=target, manifest=manifest)
        self.say(f"data cache of {path}: {size_text(entry.size)} in {target}")
        return entry, content

    def _publish(
        self, path: Path, source: Source, groups: Sequence[GroupRecords], digest: str, partial: Path, target: Path
    ) -> Manifest:
        manifest = Manifest(
            path=str(path.absolute()),
            reading=self.reading,
            checksum=digest,
            sources=(source,),
            groups=tuple(groups),
        )
        write_manifest(partial, manifest)
        partial.rename(target)
        sync_folder(self.folder)
        return manifest

    def _check_space(self, path: Path, scan: FileScan, target: Path, partial: Path) -> int | None:
        """Check that there is space for a cache; return the number of structures, None if the file has problems.

        Raises:
            OSError: There is not enough space.
        """
        try:
            with open_file(path) as file:
                layout = read_layout(path, file, scan.labels, scan.file_format)
                records = [found for group in layout.groups if (found := records_of(group)) is not None]
        except DataError:
            return None
        if layout.problems:
            return None
        needed = sum(RecordFile.of(target, group.atoms, group.rows, group.shapes).size for group in records)
        free = shutil.disk_usage(self.folder).free
        written = sum(file.stat().st_size for file in partial.iterdir()) if partial.is_dir() else 0
        if needed > free + written:
            raise OSError(errno.ENOSPC, f"it needs {size_text(needed)}, but {size_text(free)} are free")
        if needed:
            how = "continuing" if written else "building"
            self.say(f"{how} the data cache of {path}: {size_text(needed)} in {target}")
        return sum(group.rows for group in layout.groups)

    def _renew(self, lease: Lease) -> None:
        if self.clock() < self._renewed_at + RENEWAL_INTERVAL:
            return
        if not lease.renew():
            raise Superseded
        self._renewed_at = self.clock()

    def _give_up(self, path: Path, error: OSError) -> None:
        reason = error.strerror or str(error)
        self.say(
            f"warning: no data cache of {path} in {self.folder}: {reason}; the file is read directly, which may be "
            "slow; set data.cache to a folder on another disk, or data.cache=off"
        )

    def _entries(self) -> Iterator[Entry]:
        try:
            folders = sorted(self.folder.iterdir())
        except OSError:
            return
        for folder in folders:
            if not folder.name.startswith(".") and (entry := open_entry(folder)) is not None:
                yield entry

    def _find_copy(self, path: Path, source: Source, entries: list[Entry]) -> Entry | None:
        if not entries:
            return None
        self.say(f"comparing {path} with the data for which there is a cache")
        digest = checksum(path)
        entry = next((entry for entry in entries if entry.manifest.checksum == digest), None)
        if entry is None or find_source(path) != source:
            return None
        manifest = msgspec.structs.replace(entry.manifest, sources=(*entry.manifest.sources, source))
        try:
            write_manifest(entry.folder, manifest)
        except OSError:
            # The cache of another user; the checksum is computed again next time.
            pass
        return Entry(folder=entry.folder, manifest=manifest)

    def _open(self, entry: Entry, path: Path) -> tuple[Entry, FileContent] | None:
        try:
            if damage := entry.find_damage():
                raise DataError(damage)
            return entry, entry.content(path)
        except DataError as error:
            self.say(f"warning: the data cache {entry.folder} is damaged and not used: {error}")
            return None

    def _name(self, path: Path, source: Source) -> str:
        digest = hashlib.sha256(msgspec.json.encode((self.reading, source))).hexdigest()
        return f"{path.stem}-{digest[:16]}"


def _may_equal(entry: Entry, source: Source) -> bool:
    """Return whether the data of a cache can have the content of files of these sizes."""
    sizes = [(file.name, file.size) for file in source]
    return any([(file.name, file.size) for file in known] == sizes for known in entry.manifest.sources)


def _check_unchanged(path: Path, source: Source) -> None:
    try:
        changed = find_source(path) != source
    except OSError:
        changed = True
    if changed:
        raise DataError(f"{path} has changed while it was read; start again once it is complete")


def size_text(size: int) -> str:
    """Return a number of bytes as text, such as ``1.2 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
