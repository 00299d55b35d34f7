"""How a run stands: what its journal says, else what can be seen of its trainer."""

from __future__ import annotations

from typing import Literal

from telemetry.records import Status
from telemetry.run_folder.heartbeat import TrainerLivenessProbe

RunStatus = Literal["running", "unseen", "finished", "failed", "preempted", "killed"]
"""``unseen``: the journal does not say how the run ended, and its trainer cannot be seen from here (yet)."""
OPEN = frozenset({"running", "unseen"})
"""States in which records may still come."""


def run_status(closed: Status | None, watch: TrainerLivenessProbe) -> RunStatus:
    """Say how a run stands.

    Args:
        closed: how its newest attempt ended, None if its journal does not say.
        watch: looks after its trainer; the longer it has, the more it can tell.
    """
    if closed is not None:
        return closed
    lives = watch.is_alive()
    if lives is None:
        return "unseen"
    return "running" if lives else "killed"
