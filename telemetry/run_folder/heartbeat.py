"""The heartbeat of a trainer: ``alive.json``, rewritten at intervals with an increasing number."""

from __future__ import annotations

from pathlib import Path

import msgspec

from telemetry.run_folder.atomic_write import read_json, write_json
from telemetry.run_folder.job_identity import JobIdentity
from telemetry.run_folder.paths import heartbeat_path
from telemetry.run_folder.process_identity import ProcessIdentity

HEARTBEAT_INTERVAL = 10.0
"""Interval between heartbeats, in seconds."""
HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a new heartbeat after which a process that is not visible is considered dead."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many records of an attempt were offered, are durable and were lost.

    Attributes:
        offered: records offered.
        journaled: records that are durable.
        lost: records that could not be recorded.
        step: the highest step recorded.
        dropped: numbers of values and points left out, by reason. A point that lacks only some of its values is not
            lost.
        media: numbers of the records of texts, tables, images, histograms and artifacts, by kind.
    """

    offered: int = 0
    journaled: int = 0
    lost: int = 0
    step: int = 0
    dropped: dict[str, int] = {}
    media: dict[str, int] = {}

    def dropped_text(self) -> str:
        """Return what was left out, as a line of text."""
        return "left out: " + ", ".join(f"{number} x {reason}" for reason, number in self.dropped.items())


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of ``alive.json``; ``beat`` increases, and is -1 in the last heartbeat, when the run is closed.

    ``job`` is None outside of SLURM and in runs of versions that did not record it.
    """

    trainer: ProcessIdentity
    attempt: int
    beat: int
    counts: Counts
    job: JobIdentity | None = None


_decoder = msgspec.json.Decoder(Heartbeat)


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """Return the last heartbeat; None if there is none, or it is unreadable."""
    return read_json(heartbeat_path(folder), _decoder)


def write_heartbeat(folder: Path, heartbeat: Heartbeat) -> None:
    """Replace the heartbeat.

    Raises:
        OSError: the file could not be written.
    """
    # Not synced: that could stall the journal thread, and after a power cut the trainer is dead anyway.
    write_json(heartbeat_path(folder), heartbeat, sync=False)
