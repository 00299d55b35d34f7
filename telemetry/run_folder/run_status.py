"""The status of a run: as recorded in its journal, else judged by its trainer."""

from __future__ import annotations

from typing import Literal

from telemetry.records import Status
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

RunStatus = Literal["running", "unseen", "finished", "failed", "preempted", "killed"]
"""``unseen``: the journal does not record an end, and whether the trainer is alive is not known (yet)."""
OPEN = frozenset({"running", "unseen"})
"""Statuses in which more records may follow."""


def run_status(closed: Status | None, trainer: TrainerLivenessProbe) -> RunStatus:
    """Return the status of a run.

    Args:
        closed: the status with which its newest attempt was closed; None if the journal does not record it.
        trainer: watches its trainer; ``unseen`` becomes definite after it has watched for long enough.
    """
    if closed is not None:
        return closed
    alive = trainer.is_alive()
    if alive is None:
        return "unseen"
    return "running" if alive else "killed"
