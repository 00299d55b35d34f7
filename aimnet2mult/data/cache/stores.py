"""Where the structures of data files are read: in their caches, in copies of the files, or in the files themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aimnet2mult.data.cache.entry import Entry, open_entry
from aimnet2mult.data.data_files import open_file_rows
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.row_store import RowStore
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["Locations", "read_entry"]


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Where the structures of data files are read; both mappings are by path of the data file."""

    caches: Mapping[str, Path] = field(default_factory=dict)
    """Folders of caches."""
    copies: Mapping[str, Path] = field(default_factory=dict)
    """Copies of data files on a disk of this machine."""

    def open_stores(
        self, path: Path, content: FileContent, labels: Sequence[Label], file_format: FileFormat
    ) -> Sequence[RowStore]:
        """Return a store for each group of a file; see `aimnet2mult.data.data_files.OpenStores`.

        Raises:
            DataError: The file or its cache cannot be used.
        """
        records: dict[int, RowStore] = {}
        if (folder := self.caches.get(str(path))) is not None:
            entry = read_entry(folder)
            records = {group.atoms: entry.store(group, labels) for group in entry.manifest.groups}
        if content.groups and all(group.atoms in records for group in content.groups):
            return [records[group.atoms] for group in content.groups]
        direct = open_file_rows(self.copies.get(str(path), path), content, labels, file_format)
        return [records.get(store.atoms, store) for store in direct]


def read_entry(folder: Path) -> Entry:
    """Return the cache in a folder.

    Raises:
        DataError: There is none.
    """
    entry = open_entry(folder)
    if entry is None:
        raise DataError(f"the data cache {folder} has been removed or damaged since the run was started; start again")
    return entry
