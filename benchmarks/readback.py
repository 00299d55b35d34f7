"""Count the points of a variant that can be read back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from backends import Backends
from variants import VARIANTS

from telemetry.delivery.receipt import read_receipt
from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

LINGER_TIMEOUT = 30.0
"""Seconds to wait for deliveries that continue after the trainer has ended."""


def read_back(name: str, home: Path, backends: Backends, last: int, *, experiment: str = "") -> dict[str, int]:
    """Return the number of points up to iteration ``last``, by sink; the experiment is by default that of the folder.

    If a run of this package could not deliver its points because its backend was unreachable, ``telemetry sync``
    delivers them to a healthy one first.
    """
    variant, experiment = VARIANTS[name], experiment or home.name
    counts = {}
    if variant.function is None:
        counts["journal"] = _count_journal(home / "run", last)
    if variant.function is None and variant.backend != "healthy":
        _sync(home / "run", variant.sinks, backends.destination("healthy", experiment))
    return counts | {sink: count_points(sink, home, experiment, backends) for sink in variant.sinks}


def count_points(sink: str, home: Path, experiment: str, backends: Backends) -> int:
    """Return the number of points of the loss in an MLflow experiment, or in files of another backend in ``home``."""
    if sink == "mlflow":
        return backends.count_points(experiment)
    return _count_tensorboard(home) if sink == "tensorboard" else _count_wandb(home)


def _count_journal(folder: Path, last: int) -> int:
    records = JournalReader(folder).read(1_000_000, live=False)
    return sum(isinstance(r, Scalars) and r.stream == "train" and r.step <= last for r in records)


def _sync(folder: Path, sinks: tuple[str, ...], destination: dict[str, str]) -> None:
    deadline = time.monotonic() + LINGER_TIMEOUT
    while time.monotonic() < deadline and any(sink.holder for sink in read_receipt(folder).sinks):
        time.sleep(0.2)
    options = [
        "-o",
        f"mlflow.tracking_uri={destination['mlflow']}",
        "-o",
        f"mlflow.experiment={destination['experiment']}",
    ]
    command = [sys.executable, "-m", "telemetry", "sync", str(folder), "--telemetry-sinks", ",".join(sinks)]
    subprocess.run([*command, *options, "-o", "wandb.mode=offline"], check=True, stdout=subprocess.DEVNULL, timeout=300)


def _count_tensorboard(home: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = set()
    for folder in {path.parent for path in home.rglob("*tfevents*")}:
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        accumulator.Reload()
        if "train/loss" in accumulator.Tags()["scalars"]:
            steps |= {event.step for event in accumulator.Scalars("train/loss")}
    return len(steps)


def _count_wandb(home: Path) -> int:
    from support.wandb_kit import inspect

    rows = [
        record["history"]["item"]
        for path in home.rglob("run-*.wandb")
        for record in inspect(path)
        if record["type"] == "history"
    ]
    return sum("train/loss" in row for row in rows)
