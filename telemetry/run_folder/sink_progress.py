"""Delivery progress of each sink: ``sinks/<name>.json``, written by the delivering process only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from telemetry.records import Count, Status
from telemetry.run_folder.atomic_write import read_json, write_json
from telemetry.run_folder.paths import progress_path
from telemetry.run_folder.permissions import make_folder

SinkState = Literal["opening", "delivering", "retrying", "refused", "closed"]
"""``refused``: the sink rejected the whole run."""


class Cursor(msgspec.Struct, kw_only=True):
    """Progress at one destination.

    Attributes:
        accepted: sequence number of the last record that the sink accepted.
        durable: sequence number of the last record known to survive a crash of the backend's client.
        rejected: number of records that the sink rejected; ``sinks/<name>.rejected.jsonl`` contains them.
        last_rejected: sequence number of the last rejected record.
        closed: the status with which the backend's run was closed; None while it is open.
    """

    accepted: Count = 0
    durable: Count = 0
    rejected: Count = 0
    last_rejected: Count = 0
    closed: Status | None = None


class SinkProgress(msgspec.Struct, kw_only=True):
    """The content of ``sinks/<name>.json``.

    Attributes:
        state: the state of the delivery.
        reopening: whether the sink has yet to report its destination, so that ``destination`` is the previous one.
        destination: the place where the sink writes.
        view: the URL or command that shows the run there.
        cursors: progress at each destination.
        media: the kinds of media that the sink shows; None if an earlier version has written the file.
        hung_at: sequence number of the record with the largest content in the call that last took too long.
        hangs: how often that has happened in succession.
        retries: number of failures so far.
        last_error: message of the last failure.
        last_error_time, updated: times of the last failure and of the last change, in ms since 1970.
    """

    state: SinkState = "opening"
    reopening: bool = False
    destination: str = ""
    view: str = ""
    cursors: dict[str, Cursor] = {}
    media: tuple[str, ...] | None = None
    hung_at: Count = 0
    hangs: Count = 0
    retries: Count = 0
    last_error: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    last_error_time: Count = 0
    updated: Count = 0

    @property
    def cursor(self) -> Cursor:
        """The cursor of the current destination."""
        return self.cursors.setdefault(self.destination, Cursor())

    @property
    def is_elsewhere(self) -> bool:
        """Whether the cursor may belong to a previous destination, so that the pending records are unknown."""
        return self.reopening and bool(self.destination)


_decoder = msgspec.json.Decoder(SinkProgress)


def read_progress(folder: Path, name: str) -> SinkProgress | None:
    """Return a sink's progress; None if there is none, or it is unreadable."""
    return read_json(progress_path(folder, name), _decoder)


def write_progress(folder: Path, name: str, progress: SinkProgress) -> None:
    """Replace a sink's progress file.

    Raises:
        OSError: the file could not be written.
    """
    make_folder(progress_path(folder, name).parent)
    write_json(progress_path(folder, name), progress)
