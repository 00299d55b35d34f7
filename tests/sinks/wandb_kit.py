"""What W&B shows of a run: read from its files by wandb's own tool, and from the server's memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import wandb

from telemetry.testing import Point

CORE = Path(wandb.__file__).parent / "bin" / "wandb-core"
OWN = {"trainer/iteration", "telemetry/seq", "telemetry/attempt"}


def segment_files(folder: Path) -> list[Path]:
    """The offline files of the run in a folder, the oldest first."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def inspect(path: Path) -> list[dict[str, Any]]:
    """All records of a file, read by wandb-core."""
    command = [CORE, "leet", "inspect", "-no-observability", "-json", "-run-file", path]
    out = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines()]


def records(folder: Path, kind: str) -> list[Any]:
    """What the records of one kind hold, in all files of a run."""
    return [r[kind] for path in segment_files(folder) for r in inspect(path) if r["type"] == kind]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of history in all files of a run."""
    return [history["item"] for history in records(folder, "history")]


def config(folder: Path) -> dict[str, Any]:
    """The configuration, as the file that is the newest has it."""
    found = records(folder, "run")
    return found[-1]["config"]["update"] if found else {}


def points(history: Iterable[Mapping[str, Any]], units: Mapping[str, str]) -> list[Point]:
    """The points of some rows."""
    return [
        Point(
            name,
            row["trainer/iteration"],
            float(value),
            round(row["_timestamp"] * 1000),
            units.get(name, "1"),
        )
        for row in history
        for name, value in row.items()
        if name not in OWN and not name.startswith("_")
    ]
