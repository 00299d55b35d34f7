"""How many of the points that a variant logged can be read back."""

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

REST = 30.0
"""Seconds that deliveries which outlive their trainer are waited for."""


def kept(name: str, home: Path, where: Backends, last: int) -> dict[str, int]:
    """Say how many points there are, by where they are read; points after iteration ``last`` do not count.

    What a run of ours could not deliver, as its backend was dead, is delivered to a live one by ``telemetry sync``.
    """
    variant = VARIANTS[name]
    counts = {}
    if variant.function is None:
        counts["journal"] = _journal(home / "run", last)
    if variant.function is None and variant.backend != "healthy":
        _sync(home / "run", variant.sinks, where.where("healthy", home.name))
    return counts | {sink: shown(sink, home, home.name, where) for sink in variant.sinks}


def shown(sink: str, home: Path, experiment: str, where: Backends) -> int:
    """Say how many points of the loss a backend shows, in files below ``home`` or in an experiment of MLflow's."""
    if sink == "mlflow":
        return where.points(experiment)
    return _tensorboard(home) if sink == "tensorboard" else _wandb(home)


def _journal(folder: Path, last: int) -> int:
    records = JournalReader(folder).read(1_000_000, live=False)
    return sum(isinstance(r, Scalars) and r.stream == "train" and r.step <= last for r in records)


def _sync(folder: Path, sinks: tuple[str, ...], where: dict[str, str]) -> None:
    deadline = time.monotonic() + REST
    while time.monotonic() < deadline and str(read_receipt(folder)).count("being delivered by"):
        time.sleep(0.2)
    options = ["-o", f"mlflow.tracking_uri={where['mlflow']}", "-o", f"mlflow.experiment={where['experiment']}"]
    command = [sys.executable, "-m", "telemetry", "sync", str(folder), "--telemetry-sinks", ",".join(sinks)]
    subprocess.run([*command, *options, "-o", "wandb.mode=offline"], check=True, stdout=subprocess.DEVNULL, timeout=300)


def _tensorboard(home: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = set()
    for folder in {path.parent for path in home.rglob("*tfevents*")}:
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        accumulator.Reload()
        if "train/loss" in accumulator.Tags()["scalars"]:
            steps |= {event.step for event in accumulator.Scalars("train/loss")}
    return len(steps)


def _wandb(home: Path) -> int:
    from support.wandb_kit import inspect

    rows = [
        record["history"]["item"]
        for path in home.rglob("run-*.wandb")
        for record in inspect(path)
        if record["type"] == "history"
    ]
    return sum("train/loss" in row for row in rows)
