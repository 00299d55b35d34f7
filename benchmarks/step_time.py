"""Measure the slowdown of a training step of 10 ms (matrix products) by three sinks, in alternating blocks."""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack
from pathlib import Path

import torch
from backends import Backends
from interleaving import VariantProcess, environment, interleave, make_job
from targets import Target, at_most
from workload import MatrixProduct

STEP = 0.01
"""Duration of a step, in seconds."""
BLOCK = 200
"""Steps per block; each block has one due point."""
ROUNDS = {"one": 16, "all": 24}
PROCESSES = {"none": "none", "control": "none", "three": "three"}
"""Variant of each process. The two without sinks differ only by chance."""


def measure(home: Path, backends: Backends, factor: float) -> list[Target]:
    """Measure the slowdown; ``factor`` scales the number of rounds."""
    cores = os.cpu_count() or 1
    rounds = {name: max(3, round(number * factor)) for name, number in ROUNDS.items()}
    quantity = "slowdown of a 10 ms step by three sinks"
    return [
        _target(f"{quantity}, one core", 0.5, _walls(home / "one", backends, rounds["one"], threads=1)),
        _target(f"{quantity}, all {cores} cores", 1.0, _walls(home / "all", backends, rounds["all"], threads=cores)),
    ]


def _target(quantity: str, limit: float, walls: dict[str, list[int]]) -> Target:
    slowdowns = [
        200 * three / (none + control) - 100
        for none, control, three in zip(walls["none"], walls["control"], walls["three"], strict=True)
    ]
    controls = [100 * control / none - 100 for none, control in zip(walls["none"], walls["control"], strict=True)]
    note = f"{_quartiles(slowdowns)}; two processes without sinks: {statistics.median(controls):+.2f}, "
    note += f"{_quartiles(controls)}; {len(slowdowns)} rounds"
    return at_most(quantity, limit, statistics.median(slowdowns), "%", note)


def _quartiles(percents: list[float]) -> str:
    low, _, high = statistics.quantiles(percents, n=4)
    return f"quartiles {low:+.2f} and {high:+.2f}"


def _walls(home: Path, backends: Backends, rounds: int, *, threads: int) -> dict[str, list[int]]:
    """Return the durations of the blocks of each process, in ns."""
    torch.set_num_threads(threads)
    repeats = MatrixProduct.repeats_for(STEP)
    with ExitStack() as stack:
        processes = {}
        for name, variant in PROCESSES.items():
            destination = backends.destination("healthy", f"step-{threads}-{name}")
            job = make_job(
                variant,
                home / name,
                destination,
                block=BLOCK,
                rounds=rounds,
                threads=threads,
                repeats=repeats,
                between_blocks="stop",
            )
            processes[name] = stack.enter_context(VariantProcess(job, environment(destination)))
        interleave(list(processes.values()), rounds)
    torch.set_num_threads(1)
    return {name: process.timings.walls for name, process in processes.items()}
