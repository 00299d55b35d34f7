"""Measure the overhead in a training loop for all variants, in alternating blocks."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backends import Backends
from interleaving import Timings, VariantProcess, environment, interleave, make_job
from readback import read_back
from variants import VARIANTS, Variant

EVERY = 200
"""Iterations between due points."""
BLOCK = 4_000
"""Steps per block: 20 points."""
FREQUENT = 40
"""Iterations between due points where their tail is measured, so that its 99th percentile is not their maximum."""
ROUNDS = 6


def measure(
    home: Path, backends: Backends, factor: float, names: tuple[str, ...] = tuple(VARIANTS), *, every: int = EVERY
) -> list[dict[str, Any]]:
    """Return a row for each variant; ``factor`` scales the length of the blocks.

    Raises:
        NoResponse: a variant did not finish.
    """
    block = max(2 * every, round(BLOCK * factor / every) * every)
    with ExitStack() as stack:
        processes = [stack.enter_context(_start(name, home, backends, block, every)) for name in names]
        interleave(processes, ROUNDS)
        timings = {process.name: process.timings for process in processes}
    rows = []
    for name in names:
        counts = read_back(name, home / name, backends, block * ROUNDS, experiment=f"{name}-{every}")
        row = _row(name, VARIANTS[name], timings, block, every)
        rows.append(row | {"read_back": counts, "points": block * ROUNDS // every, "every": every})
    return rows


def _start(name: str, home: Path, backends: Backends, block: int, every: int) -> VariantProcess:
    destination = backends.destination(VARIANTS[name].backend, f"{name}-{every}")
    job = make_job(name, home, destination, block=block, rounds=ROUNDS, every=every)
    return VariantProcess(job, environment(destination))


def _row(name: str, variant: Variant, timings: dict[str, Timings], block: int, every: int) -> dict[str, Any]:
    idle, due = split(timings[name], every)
    base_idle, base_due = split(timings[variant.base], every)
    baseline = statistics.median(base_idle)
    each = statistics.mean(idle + due) - statistics.mean(base_idle + base_due)
    ratios = [wall / bare for wall, bare in zip(timings[name].walls, timings["bare"].walls, strict=True)]
    return {
        "name": name,
        "title": variant.title,
        "each_us": each / 1e3,
        "idle_p50_us": (statistics.median(idle) - baseline) / 1e3,
        "idle_p99_us": (percentile(idle) - baseline) / 1e3,
        "due_p50_us": (statistics.median(due) - baseline) / 1e3,
        "due_p99_us": (percentile(due) - baseline) / 1e3,
        "due_max_us": (max(due) - baseline) / 1e3,
        "step_us": statistics.median(timings[name].walls) / block / 1e3,
        "ratio": statistics.median(ratios),
        "close_s": timings[name].close_seconds,
    }


def split(timings: Timings, every: int) -> tuple[list[int], list[int]]:
    """Return the gaps after iterations that were not due, and the gaps after due iterations, in ns."""
    idle: list[int] = []
    due: list[int] = []
    for gaps in timings.gaps:
        # Gap n follows step n of the block.
        for number, gap in enumerate(gaps, start=1):
            (due if number % every == 0 else idle).append(gap)
    return idle, due


def percentile(values: list[int]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else float(values[0])
