"""How far each sink has got: ``sinks/<name>.json``, written by whoever delivers, read by everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from telemetry.errors import RunFolderError
from telemetry.records import Count, Status
from telemetry.run_folder.atomic_write import read_json, write_json

SinkState = Literal["opening", "delivering", "retrying", "refused", "closed"]


class Cursor(msgspec.Struct, kw_only=True):
    """Progress at one destination, in sequence numbers.

    Attributes:
        accepted: the last record that the sink took.
        durable: the last one that is known to outlive a crash of the backend's client.
        rejected: how many records the sink would not take; they stand in ``sinks/<name>.rejected.jsonl``.
        last_rejected: the last one of them.
        closed: how the backend's run was closed, None as long as it is open.
    """

    accepted: Count = 0
    durable: Count = 0
    rejected: Count = 0
    last_rejected: Count = 0
    closed: Status | None = None


class SinkProgress(msgspec.Struct, kw_only=True):
    """The content of ``sinks/<name>.json``.

    Attributes:
        state: what delivery is at.
        reopening: the sink has not said yet where it writes now; ``destination`` and its cursor are those of before.
        destination: the one in use.
        view: shows it to people.
        cursors: progress at each destination.
        retries: failures so far.
        last_error: of the last failure.
        last_error_time, updated: in ms since 1970.
    """

    state: SinkState = "opening"
    reopening: bool = False
    destination: str = ""
    view: str = ""
    cursors: dict[str, Cursor] = {}
    retries: Count = 0
    last_error: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    last_error_time: Count = 0
    updated: Count = 0

    @property
    def cursor(self) -> Cursor:
        """The cursor of the destination in use."""
        return self.cursors.setdefault(self.destination, Cursor())

    @property
    def is_elsewhere(self) -> bool:
        """Say whether the cursor is that of a destination of before, so that nobody knows what is left."""
        return self.reopening and bool(self.destination)


_decoder = msgspec.json.Decoder(SinkProgress)


def sinks_folder(folder: Path) -> Path:
    """Give the folder in which a run keeps what is known of its sinks.

    Raises:
        RunFolderError: it is a link. In a run folder from elsewhere it would lead to where nothing of the run's is to
            be written.
    """
    path = folder / "sinks"
    if path.is_symlink():
        msg = f"{path} is a link; what is known of a run's sinks is kept in its own folder: remove it"
        raise RunFolderError(msg)
    return path


def progress_path(folder: Path, name: str) -> Path:
    """Give the path of a sink's progress file."""
    return folder / "sinks" / f"{name}.json"


def read_progress(folder: Path, name: str) -> SinkProgress | None:
    """Give a sink's progress, None if it has never been delivered to."""
    return read_json(progress_path(folder, name), _decoder)


def write_progress(folder: Path, name: str, progress: SinkProgress) -> None:
    """Replace a sink's progress file; raises OSError."""
    progress_path(folder, name).parent.mkdir(exist_ok=True)
    write_json(progress_path(folder, name), progress)


def delivered_sinks(folder: Path) -> list[str]:
    """Give the names of the sinks that a run has been delivered to, at least in part."""
    return sorted(path.stem for path in (folder / "sinks").glob("*.json") if not path.name.startswith("."))
