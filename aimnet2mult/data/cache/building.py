"""Building of the cache of a data file by one process; others wait for it."""

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aimnet2mult.data.cache.builder import SAVE_INTERVAL, STATE, Builder, records_of
from aimnet2mult.data.cache.data_cache import DataCache, Found
from aimnet2mult.data.cache.entry import Entry, open_entry
from aimnet2mult.data.cache.manifest import GroupRecords, Manifest, write_manifest
from aimnet2mult.data.cache.record_file import RecordFile
from aimnet2mult.data.cache.source import Source, checksum, find_source
from aimnet2mult.data.checks import scan_file
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_scan import FileScan
from aimnet2mult.data.layout import open_file, read_layout
from aimnet2mult.data.sizes import size_text
from aimnet2mult.errors import DataError
from telemetry.run_folder.atomic_write import sync_folder
from telemetry.run_folder.lease import RENEWAL_INTERVAL, Lease
from telemetry.run_folder.permissions import make_folder, make_parents, mode_of, umask_of

__all__ = ["Building"]

POLL_INTERVAL = 1.0
"""Seconds between looks at a cache that another process builds."""


class Superseded(Exception):
    """Another process has taken over the build, because this one was suspended for long."""


@dataclass(kw_only=True)
class Building:
    """The check of a data file in which its cache is built.

    The folder has a temporary name until it is complete, and a lease names the process that builds it. A process that
    loses the lease while it is suspended cannot do damage: both write the same bytes to the same places.
    """

    cache: DataCache
    path: Path
    new_scan: Callable[[], FileScan]
    """Returns a scan of the file that has not begun."""
    progress: Callable[[int, int], object] = lambda *_: None
    """Called with the number of structures that have been read, and their total."""
    save_interval: float = SAVE_INTERVAL
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _renewed_at: float = field(default=0.0, init=False)

    def run(self) -> tuple[Entry | None, FileContent]:
        """Check the file, and return its cache, if it could be written, and what the checks have found.

        Raises:
            DataError: The file has changed in the meantime.
        """
        source = find_source(self.path)
        target = self.cache.place(self.path, source)
        try:
            make_parents(target, mode_of(self.cache.folder.parent))
            while True:
                lease = Lease(target.parent, f".{target.name}", clock=self.clock)
                if (found := self._wait(target, lease)) is not None:
                    return found
                with contextlib.suppress(Superseded), umask_of(target.parent):
                    try:
                        return self._build(source, target, lease)
                    finally:
                        lease.release()
        except OSError as error:
            self._give_up(error)
        content = scan_file(self.new_scan())
        self._check_unchanged(source)
        return None, content

    def _wait(self, target: Path, lease: Lease) -> Found | None:
        """Wait until this process may build the cache, or return it if another process has built it."""
        announced = False
        while not lease.try_acquire():
            if not announced:
                holder = lease.holder() or "another process"
                self.cache.say(f"waiting for the data cache of {self.path}, which {holder} is building")
                announced = True
            self.sleep(POLL_INTERVAL)
        self._renewed_at = self.clock()
        entry = open_entry(target)
        found = None if entry is None else self.cache.open(entry, self.path)
        if found is not None:
            lease.release()
        elif target.exists():
            shutil.rmtree(target)
        return found

    def _build(self, source: Source, target: Path, lease: Lease) -> tuple[Entry | None, FileContent]:
        partial = target.with_name(f".{target.name}.partial")
        scan = self.new_scan()
        found = _find_records(scan)
        if found is None:
            return None, scan_file(scan)
        total, records = found
        self._announce(records.values(), target, partial)

        def report(done: int) -> None:
            self._renew(lease)
            self.progress(done, total)

        make_folder(partial)
        builder = Builder(
            folder=partial,
            scan=scan,
            groups=records,
            progress=report,
            save_interval=self.save_interval,
            clock=self.clock,
        )
        builder.restore()
        with builder:
            content = scan_file(scan, builder)
            builder.finish(content)
        try:
            digest = checksum(self.path, lambda: self._renew(lease))
            self._check_unchanged(source)
            if builder.error is None and not len(content.report.errors):
                return self._publish(source, builder, digest, target), content
        except OSError as error:
            builder.error = error
        except DataError:
            builder.remove()
            raise
        builder.remove()
        if builder.error is not None:
            self._give_up(builder.error)
        return None, content

    def _announce(self, records: Iterable[GroupRecords], target: Path, partial: Path) -> None:
        """Tell how large the records will be, and where.

        Raises:
            OSError: There is not enough space.
        """
        needed = sum(RecordFile.of(target, group.atoms, group.rows, group.shapes).size for group in records)
        written = sum(file.stat().st_size for file in partial.iterdir()) if partial.is_dir() else 0
        free = shutil.disk_usage(target.parent).free
        if needed > free + written:
            raise OSError(errno.ENOSPC, f"it takes {size_text(needed)}, but only {size_text(free)} are free")
        if needed:
            how = "continuing" if (partial / STATE).exists() else "building"
            self.cache.say(f"{how} the data cache of {self.path}: {size_text(needed)} in {target}")

    def _publish(self, source: Source, builder: Builder, digest: str, target: Path) -> Entry:
        manifest = Manifest(
            path=str(self.path.absolute()),
            reading=self.cache.reading,
            checksum=digest,
            sources=(source,),
            groups=tuple(builder.groups.values()),
            complete=sum(group.rows for group in builder.groups.values()) == sum(builder.scan.done.values()),
        )
        write_manifest(builder.folder, manifest)
        builder.folder.rename(target)
        sync_folder(target.parent)
        return Entry(folder=target, manifest=manifest)

    def _renew(self, lease: Lease) -> None:
        if self.clock() < self._renewed_at + RENEWAL_INTERVAL:
            return
        if not lease.renew():
            raise Superseded
        self._renewed_at = self.clock()

    def _give_up(self, error: OSError) -> None:
        self.cache.say(
            f"warning: no data cache of {self.path} in {self.cache.folder}: {error.strerror or error}; the file is "
            "read directly, which may be slow; set data.cache to a folder on another disk, or to off"
        )

    def _check_unchanged(self, source: Source) -> None:
        try:
            changed = find_source(self.path) != source
        except OSError:
            changed = True
        if changed:
            raise DataError(f"{self.path} has changed while it was read; start again once it is complete")


def _find_records(scan: FileScan) -> tuple[int, dict[str, GroupRecords]] | None:
    """Return the number of structures of a file, and the records of its groups by name; None if it has problems."""
    try:
        with open_file(scan.path) as file:
            layout = read_layout(scan.path, file, scan.labels, scan.file_format)
            found = {group.name: records_of(group) for group in layout.groups}
    except DataError:
        return None
    records = {name: group for name, group in found.items() if group is not None}
    return None if layout.problems else (sum(group.rows for group in layout.groups), records)
