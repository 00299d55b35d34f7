"""Caches of small data files, built here or by another process: ``python -m support.data_caches FILE FOLDER [STOP]``.

The process prints the number of structures read whenever it has read some. With STOP, it waits to be killed after as
many of them.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aimnet2mult.data.cache.building import Building
from aimnet2mult.data.cache.data_cache import DataCache
from aimnet2mult.data.cache.entry import Entry
from aimnet2mult.data.cache.manifest import Reading
from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.file_scan import FileScan
from aimnet2mult.data.structures import MIN_DISTANCE
from support.labels import built_in
from support.small_groups import make_group
from telemetry.terminal import print_line

LABELS = built_in("energy", "forces")
GROUPS = (3, 4, 5, 6)
Say = Callable[[str], object]


def ignore(*_: object) -> None:
    """Do nothing."""


def write_chunked(path: Path, groups: dict[int, dict[str, Any]] | None = None, *, chunk: int = 8) -> Path:
    """Write groups of structures, compressed in chunks."""
    groups = groups or {atoms: make_group(atoms, 20, labels=("energy", "forces")) for atoms in GROUPS}
    with h5py.File(path, "w") as file:
        for atoms, arrays in groups.items():
            for key, array in arrays.items():
                chunks = (chunk, *array.shape[1:])
                file.create_dataset(f"{atoms:03}/{key}", data=array, chunks=chunks, compression="gzip")
    return path


def open_cache(folder: Path, say: Say = ignore, **changes: Any) -> DataCache:
    """Return the caches in a folder, of data that are read in the usual way."""
    limits = {"min_distance": MIN_DISTANCE, "max_element": MAX_ELEMENT, **changes}
    reading = Reading.of(limits.pop("labels", LABELS), FileFormat(), **limits)
    return DataCache(folder=folder, reading=reading, say=say)


def building(path: Path, folder: Path, say: Say = ignore, **options: Any) -> Building:
    """Return the building of the cache of a file."""

    def new_scan() -> FileScan:
        return FileScan(path, LABELS, FileFormat(), min_distance=MIN_DISTANCE, max_element=MAX_ELEMENT)

    return Building(cache=open_cache(folder, say), path=path, new_scan=new_scan, **options)


def build(path: Path, folder: Path, say: Say = ignore, **options: Any) -> Entry:
    """Build the cache of a file, which must succeed."""
    entry, _ = building(path, folder, say, **options).run()
    assert entry is not None
    return entry


def as_plain(content: FileContent) -> Any:
    """Return a content as values that can be compared."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.shape, value.tobytes()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return plain(vars(value)) if hasattr(value, "__dict__") else value

    return plain(content)


def main(path: str, folder: str, stop: str = "0") -> None:
    """Build a cache."""

    def progress(done: int, _: int) -> None:
        print_line(str(done))
        if int(stop) and done >= int(stop):
            signal.pause()

    entry, _ = building(Path(path), Path(folder), print_line, progress=progress, save_interval=0).run()
    print_line("built" if entry else "not built")


if __name__ == "__main__":
    main(*sys.argv[1:])
