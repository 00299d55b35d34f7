"""What telemetry costs a training loop: all variants side by side."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backends import Backends
from readback import kept
from turns import Taken, Turn, environment, job_of, take_turns
from variants import VARIANTS, Variant

EVERY = 200
BLOCK = 4_000
"""Steps of a block: 20 points."""
ROUNDS = 6


def run(home: Path, where: Backends, factor: float, names: tuple[str, ...] = tuple(VARIANTS)) -> list[dict[str, Any]]:
    """Give a row for each variant; ``factor`` makes the blocks shorter or longer.

    Raises:
        Late: a variant did not get to its end.
    """
    block = max(2 * EVERY, round(BLOCK * factor / EVERY) * EVERY)
    with ExitStack() as stack:
        turns = [stack.enter_context(_turn(name, home, where, block)) for name in names]
        take_turns(turns, ROUNDS)
        taken = {turn.name: turn.taken for turn in turns}
    rows = []
    for name in names:
        counts = kept(name, home / name, where, block * ROUNDS)
        rows.append(_row(name, VARIANTS[name], taken, block) | {"kept": counts, "points": block * ROUNDS // EVERY})
    return rows


def _turn(name: str, home: Path, where: Backends, block: int) -> Turn:
    variant = VARIANTS[name]
    there = where.where(variant.backend, name)
    return Turn(job_of(name, home, there, block=block, rounds=ROUNDS), environment(there))


def _row(name: str, variant: Variant, taken: dict[str, Taken], block: int) -> dict[str, Any]:
    idle, due = split(taken[name])
    base, base_due = split(taken[variant.base])
    before = statistics.median(base)
    each = statistics.mean(idle + due) - statistics.mean(base + base_due)
    walls = [ours / bare for ours, bare in zip(taken[name].walls, taken["bare"].walls, strict=True)]
    return {
        "name": name,
        "title": variant.title,
        "each_us": each / 1e3,
        "idle_p50_us": (statistics.median(idle) - before) / 1e3,
        "idle_p99_us": (percentile(idle) - before) / 1e3,
        "due_p50_us": (statistics.median(due) - before) / 1e3,
        "due_p99_us": (percentile(due) - before) / 1e3,
        "due_max_us": (max(due) - before) / 1e3,
        "step_us": statistics.median(taken[name].walls) / block / 1e3,
        "ratio": statistics.median(walls),
        "closed_s": taken[name].closed,
    }


def split(taken: Taken) -> tuple[list[int], list[int]]:
    """Give the gaps of iterations that were not due, and of those that were."""
    idle, due = [], []
    for gaps in taken.gaps:
        # The first step of a block follows a pause.
        for number, gap in enumerate(gaps, start=1):
            (due if number % EVERY == 0 else idle).append(gap)
    return idle, due


def percentile(values: list[int]) -> float:
    """Give the 99th percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else float(values[0])
