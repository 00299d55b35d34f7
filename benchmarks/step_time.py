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
ROUNDS = 16
PAIR = ("none", "three")


def measure(home: Path, backends: Backends, factor: float) -> list[Target]:
    """Measure the slowdown; ``factor`` scales the number of rounds."""
    cores = os.cpu_count() or 1
    rounds = max(3, round(ROUNDS * factor))
    quantity = "slowdown of a 10 ms step by three sinks"
    return [
        _target(f"{quantity}, one core", 0.5, _ratios(home / "one", backends, rounds, threads=1)),
        _target(f"{quantity}, all {cores} cores", 1.0, _ratios(home / "all", backends, rounds, threads=cores)),
    ]


def _target(quantity: str, limit: float, ratios: list[float]) -> Target:
    percents = [100 * (ratio - 1) for ratio in ratios]
    low, _, high = statistics.quantiles(percents, n=4)
    note = f"quartiles over {len(percents)} pairs of blocks: {low:+.2f} and {high:+.2f}"
    return at_most(quantity, limit, statistics.median(percents), "%", note)


def _ratios(home: Path, backends: Backends, rounds: int, *, threads: int) -> list[float]:
    """Return the ratio of the durations of a block with three sinks and a block without, for each round."""
    torch.set_num_threads(threads)
    repeats = MatrixProduct.repeats_for(STEP)
    with ExitStack() as stack:
        processes = []
        for name in PAIR:
            destination = backends.destination("healthy", f"step-{threads}-{name}")
            job = make_job(
                name,
                home,
                destination,
                block=BLOCK,
                rounds=rounds,
                threads=threads,
                repeats=repeats,
                between_blocks="stop",
            )
            processes.append(stack.enter_context(VariantProcess(job, environment(destination))))
        interleave(processes, rounds)
        without, with_three = (process.timings.walls for process in processes)
    torch.set_num_threads(1)
    return [three / none for three, none in zip(with_three, without, strict=True)]
