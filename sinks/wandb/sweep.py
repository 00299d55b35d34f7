"""The W&B run that a sweep has chosen for a training started by ``wandb agent``."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telemetry.sink_api import SinkRejected, atomic_write, private_opener

_FILE = "wandb-sweep.json"
"""File of the run folder, so that a resume or `telemetry sync` outside the agent continues the same W&B run."""
_MAX_BYTES = 1 << 16
_VALID_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class RunPath:
    """Where W&B keeps a run: its ID, its project, the owner of the project, and the sweep it belongs to, if any."""

    run_id: str
    project: str
    entity: str | None
    sweep_id: str = ""


def find_sweep_run(folder: Path, settings: Any, default_project: str) -> RunPath | None:
    """Return the W&B run of a sweep that the run folder belongs to; None if there is none.

    It is that of the environment of ``wandb agent`` when the run was first delivered, which the folder then remembers.

    Args:
        folder: the run folder.
        settings: wandb's global settings.
        default_project: the project if the agent has set none.

    Raises:
        SinkRejected: the environment names another run than the folder, or no valid one.
        OSError: the file cannot be written.
    """
    known = _read(folder)
    chosen = os.environ.get("WANDB_RUN_ID", "") if settings.sweep_id else None
    if chosen is None:
        return known
    if known is not None and chosen != known.run_id:
        msg = (
            f"wandb: {folder} belongs to run {known.run_id} of sweep {known.sweep_id}, but WANDB_RUN_ID is {chosen!r}; "
            "unset WANDB_SWEEP_ID and WANDB_RUN_ID, or start a new run"
        )
        raise SinkRejected(msg)
    if not _VALID_ID.fullmatch(chosen):
        msg = f"wandb: WANDB_SWEEP_ID is set, but WANDB_RUN_ID is {chosen!r}; start the training with `wandb agent`"
        raise SinkRejected(msg)
    if known is None:
        known = RunPath(chosen, settings.project or default_project, settings.entity, settings.sweep_id)
        atomic_write(folder / _FILE, json.dumps(asdict(known)).encode())
    return known


def _read(folder: Path) -> RunPath | None:
    try:
        with open(folder / _FILE, "rb", opener=private_opener) as file:
            known = RunPath(**json.loads(file.read(_MAX_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        known = RunPath("", "", None)
    texts = (known.run_id, known.sweep_id, known.project, known.entity or "")
    if not all(isinstance(text, str) for text in texts) or not (
        _VALID_ID.fullmatch(known.run_id) and known.project and known.sweep_id
    ):
        # Otherwise the points would go to another W&B run.
        msg = f"wandb: {folder / _FILE} is damaged; it says to which W&B run of a sweep this run belongs"
        raise SinkRejected(msg)
    return known
