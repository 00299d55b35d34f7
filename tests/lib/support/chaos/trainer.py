"""A small trainer with the real bus and real deliveries, without torch; a program controlled by JSON."""

from __future__ import annotations

import json
import random
import select
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

import telemetry
from support.chaos import faults
from support.chaos.faults import OFFERED, PUBLISHED
from telemetry.journal.reader import JournalReader, read_header
from telemetry.records import Scalars

WIDTH = 1 << 15
"""A value is WIDTH·attempt + step, which identifies its record even as a float32."""
OFTEN = 0.01
"""Minimum pause in seconds with which standard input is checked after every point."""
METRICS = {"train/loss": telemetry.Metric()}


def value_of(attempt: int, step: int) -> float:
    """Return the loss published at an iteration."""
    return float(WIDTH * attempt + step)


def last_step(run: Path) -> int:
    """Return the last iteration in the journal, as a checkpoint would."""
    reader = JournalReader(run)
    last = 0
    while batch := reader.read(10_000, live=False):
        last = max([last, *(r.step for r in batch if isinstance(r, Scalars))])
    return last


def main(given: dict[str, Any]) -> None:
    """Publish until all points are published or a line arrives on standard input; then close the run."""
    run = Path(given["run"])
    counters = faults.Counters(given["counters"])
    resume = None
    if (run / "journal-0.jsonl").exists():
        last = last_step(run)
        resume = max(0, last - random.Random(given["seed"]).randrange(given["back"] + 1))
    try:
        settings = msgspec.convert(given["settings"], telemetry.Settings)
        bus = telemetry.open_run(run, metrics=METRICS, settings=settings, resume_step=resume)
    except telemetry.RunNotFound:  # the attempt before was killed before it had begun
        bus = telemetry.open_run(run, metrics=METRICS, settings=settings)
    attempt = read_header(run).attempt
    first = (resume or 0) + 1
    for step in range(first, first + given["points"]):
        counters[OFFERED] += 1
        bus.publish("train", step, {"loss": value_of(attempt, step)})
        counters[PUBLISHED] += 1
        if given["pause"]:
            time.sleep(given["pause"])
        if (given["pause"] >= OFTEN or not step % 64) and select.select([0], [], [], 0)[0]:
            break
    select.select([0], [], [], given["stay"])
    sys.stdout.write(f"{bus.close(given['close'])}\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
