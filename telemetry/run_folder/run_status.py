"""Determine the status of a run from its journal, or else from whether its trainer is alive."""

from __future__ import annotations

from typing import Literal

from telemetry.records import Status
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

RunStatus = Literal["running", "unseen", "finished", "failed", "preempted", "killed"]
"""``unseen``: the journal does not record an end, and it is not known (yet) whether the trainer is alive."""
OPEN = frozenset({"running", "unseen"})
"""Statuses in which more records may follow."""


def run_status(closed: Status | None, trainer: TrainerLivenessProbe) -> RunStatus:
    """Return the status of a run.

    Args:
        closed: the status with which its newest attempt was closed; None if the journal does not record it.
        trainer: probe of its trainer; once the probe has watched for long enough, the status is no longer ``unseen``.
    """
    if closed is not None:
        return closed
    alive = trainer.is_alive()
    if alive is None:
        return "unseen"
    return "running" if alive else "killed"
