"""The folder of the caches of data files, in which the cache of a file is recognized by its content."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aimnet2mult.data.cache.entry import Entry, find_entries
from aimnet2mult.data.cache.manifest import Reading, write_manifest
from aimnet2mult.data.cache.source import Source, checksum, find_source
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.errors import DataError

__all__ = ["CACHE_FOLDER", "DataCache", "Found"]

CACHE_FOLDER = "data-cache"
"""Name of the folder of the caches in the folder of the runs, by default."""

Found = tuple[Entry, FileContent]
"""The cache of a file, and what the checks have found in the file."""


@dataclass(frozen=True, kw_only=True)
class DataCache:
    """The caches of data files that are read in the same way."""

    folder: Path
    reading: Reading
    say: Callable[[str], object]
    """Called with each message."""

    def find(self, path: Path) -> Found | None:
        """Return the cache of a file; None if there is none, or if it is damaged.

        A file that has been copied or touched since is recognized by its checksum.

        Raises:
            OSError: The file does not exist.
        """
        source = find_source(path)
        entries = [entry for entry in find_entries(self.folder) if entry.manifest.reading.covers(self.reading)]
        entry = next((entry for entry in entries if source in entry.manifest.sources), None)
        if entry is None:
            entry = self._find_copy(path, source, [entry for entry in entries if _may_equal(entry, source)])
        return None if entry is None else self.open(entry, path)

    def open(self, entry: Entry, path: Path) -> Found | None:
        """Return a cache and what the checks have found in a file; None if it is damaged."""
        try:
            damage, content = entry.find_damage(), entry.content(path)
        except DataError as error:
            damage = str(error)
        if damage:
            self.say(f"warning: the data cache {entry.folder} is damaged and not used: {damage}")
            return None
        return entry, content

    def place(self, path: Path, source: Source) -> Path:
        """Return the folder of the cache that is built of a file."""
        digest = hashlib.sha256(msgspec.json.encode((self.reading, source))).hexdigest()
        return self.folder / f"{path.stem}-{digest[:16]}"

    def _find_copy(self, path: Path, source: Source, entries: list[Entry]) -> Entry | None:
        """Return the cache of a file with the same content, and remember that this file has it."""
        if not entries:
            return None
        self.say(f"comparing {path} with the data of {', '.join(str(entry.folder) for entry in entries)}")
        digest = checksum(path)
        entry = next((entry for entry in entries if entry.manifest.checksum == digest), None)
        if entry is None or find_source(path) != source:
            return None
        manifest = msgspec.structs.replace(entry.manifest, sources=(*entry.manifest.sources, source))
        # That of another user cannot be changed; then the checksum is computed again next time.
        with contextlib.suppress(OSError):
            write_manifest(entry.folder, manifest)
        return Entry(folder=entry.folder, manifest=manifest)


def _may_equal(entry: Entry, source: Source) -> bool:
    """Return whether the data of a cache can have the content of files of these sizes."""
    sizes = [(file.name, file.size) for file in source]
    return any([(file.name, file.size) for file in known] == sizes for known in entry.manifest.sources)
