"""The cache of the data of a run: where it is, which files have one, and the progress of building it."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from aimnet2mult.data.cache.building import Building
from aimnet2mult.data.cache.data_cache import CACHE_FOLDER, DataCache
from aimnet2mult.data.cache.entry import read_content, write_content
from aimnet2mult.data.cache.manifest import Reading
from aimnet2mult.data.cache.stores import read_entry
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.file_scan import FileScan
from aimnet2mult.data.layout import open_file, read_layout
from aimnet2mult.data.report import Report
from aimnet2mult.data.sizes import GIGABYTE
from aimnet2mult.errors import DataError
from aimnet2mult.train.data_progress import progress
from aimnet2mult.train.plan import echo

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config
    from aimnet2mult.data.cache.entry import Entry
    from aimnet2mult.data.file_content import FileContent
    from aimnet2mult.distributed.communicator import Communicator

__all__ = ["cache_folder", "find_caches", "share_contents"]


def cache_folder(config: Config, runs: Path) -> Path | None:
    """Return the folder of the caches; None if there is to be none.

    Files that may refer to other files have no cache, because changes of those would remain unnoticed.

    Args:
        config: The settings.
        runs: The folder of the runs.
    """
    if config.data.cache == "off" or config.data.allow_external:
        return None
    return runs / CACHE_FOLDER if config.data.cache == "auto" else Path(config.data.cache)


def find_caches(
    config: Config, files: Sequence[Path], runs: Path, *, max_element: int, build: bool
) -> tuple[dict[str, FileContent], dict[str, Path | None]]:
    """Find the caches of data files that are too large for the memory, and build those that are missing.

    Args:
        config: The settings.
        files: The data files.
        runs: The folder of the runs.
        max_element: Largest atomic number that the model supports.
        build: Whether to build missing ones.

    Returns:
        What the checks have found in the files that have been read or have a cache, and the folder of the cache of
        each file, both by path; both are empty if the data fit into the memory.

    Raises:
        DataError: A file has changed while it was read.
    """
    file_format = FileFormat.from_config(config)
    folder = cache_folder(config, runs)
    paths = list(dict.fromkeys(files))
    if memory_size(paths, config, file_format) <= config.data.in_memory_gb * GIGABYTE:
        return {}, {}
    if folder is None:
        return {}, {str(path): None for path in paths}
    reading = Reading.of(config.labels, file_format, min_distance=config.data.min_distance, max_element=max_element)
    cache = DataCache(folder=folder, reading=reading, say=_say)
    contents: dict[str, FileContent] = {}
    caches: dict[str, Path | None] = {str(path): None for path in paths}
    for path in paths:
        # The checks report files that cannot be read.
        with contextlib.suppress(OSError):
            found: tuple[Entry | None, FileContent] | None = cache.find(path)
            if found is None and build:
                with progress(path) as show:
                    scan = partial(_new_scan, path, config, file_format, max_element)
                    found = Building(cache=cache, path=path, new_scan=scan, progress=show).run()
            if found is not None:
                entry, contents[str(path)] = found
                caches[str(path)] = None if entry is None else entry.folder
    return contents, caches


def _new_scan(path: Path, config: Config, file_format: FileFormat, max_element: int) -> FileScan:
    return FileScan(
        path,
        config.labels,
        file_format,
        min_distance=config.data.min_distance,
        max_element=max_element,
    )


def share_contents(report: Report, communicator: Communicator) -> Callable[[], dict[str, FileContent]]:
    """Return a function that returns what the checks have found in all files; other ranks read it from the caches.

    All ranks must call this, and may then call the function without the others. It raises DataError if a cache cannot
    be read.
    """
    if communicator.world_size == 1:
        return lambda: report.contents
    sent: dict[str, bytes] = {}
    if not communicator.rank:
        sent = {
            path: _encode(content, path)
            for path, content in report.contents.items()
            if path not in report.cache_folders
        }
    received = communicator.broadcast(sent)

    def read() -> dict[str, FileContent]:
        if not communicator.rank:
            return report.contents
        contents = {path: read_content(io.BytesIO(content), Path(path)) for path, content in received.items()}
        received.clear()
        return contents | {
            path: read_entry(folder).content(Path(path)) for path, folder in report.cache_folders.items()
        }

    return read


def _encode(content: FileContent, path: str) -> bytes:
    """Return what other ranks need of a content: the checks are over."""
    stream = io.BytesIO()
    write_content(stream, content.without_details(), Path(path))
    return stream.getvalue()


def memory_size(files: Iterable[Path], config: Config, file_format: FileFormat) -> int:
    """Return the size of data files in memory, in bytes; those that cannot be read are left out."""
    size = 0
    for path in files:
        with contextlib.suppress(DataError), open_file(path) as file:
            for group in read_layout(path, file, config.labels, file_format).groups:
                shapes = [(group.rows, group.atoms, 3), (group.rows, group.atoms), *[(group.rows,)] * 6]
                shapes += [label.shape(group.rows, group.atoms) for label in config.labels]
                size += 4 * sum(map(math.prod, shapes))
    return size


def _say(line: str) -> None:
    """Print a line on stderr, above a bar if there is one."""
    with tqdm.external_write_mode(file=sys.stderr):
        echo(line, err=True)
