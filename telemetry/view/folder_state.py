"""Tell cheaply, without opening a file, whether a run folder has changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from telemetry.journal.segments import segment_path, segments
from telemetry.run_folder.paths import progress_path


class _FileState(NamedTuple):
    device: int
    inode: int
    size: int
    modified: int


@dataclass(frozen=True)
class FolderState:
    """The files of a run folder that the page shows.

    Attributes:
        journal: the segments, by number.
        sinks: the files of the sinks, by name.
    """

    journal: Mapping[int, _FileState]
    sinks: Mapping[str, _FileState]

    def continues(self, earlier: FolderState) -> bool:
        """Return whether the journal has only grown, so that what has been read of it is still valid."""
        for number, before in earlier.journal.items():
            now = self.journal.get(number)
            if now is None or now[:2] != before[:2] or now.size < before.size:
                return False
        return True


def folder_state(folder: Path) -> FolderState:
    """Return the state of a run folder.

    Raises:
        RunFolderError: the folder cannot be listed.
        OSError: the state of a file is unknown.
    """
    journal = {number: _file_state(segment_path(folder, number).lstat()) for number in segments(folder)}
    return FolderState(journal, _sinks(progress_path(folder, "any").parent))


def _sinks(folder: Path) -> dict[str, _FileState]:
    try:
        with os.scandir(folder) as entries:
            return {each.name: _file_state(each.stat(follow_symlinks=False)) for each in entries}
    except OSError:
        # Readable only by its owner, or a file has just been replaced: the next call sees a change.
        return {}


def _file_state(stat: os.stat_result) -> _FileState:
    return _FileState(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
