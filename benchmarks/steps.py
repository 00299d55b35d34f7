"""Targets of the whole step: 10 ms of products of matrices, with three sinks and with none, in turns."""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack
from pathlib import Path

import torch
from backends import Backends
from batches import Product
from target import Target, at_most
from turns import Turn, environment, job_of, take_turns

STEP = 0.01
BLOCK = 200
"""Steps of a block, with one point."""
ROUNDS = 16
PAIR = ("none", "three")


def rows(home: Path, where: Backends, factor: float) -> list[Target]:
    """Measure them."""
    cores = os.cpu_count() or 1
    rounds = max(3, round(ROUNDS * factor))
    spare = "a step of 10 ms on one core, three sinks against none"
    every = f"a step of 10 ms on all {cores} cores, three sinks against none"
    return [
        _row(spare, 0.5, _ratios(home / "one", where, rounds, threads=1)),
        _row(every, 1.0, _ratios(home / "all", where, rounds, threads=cores)),
    ]


def _row(what: str, wanted: float, ratios: list[float]) -> Target:
    percents = [100 * (ratio - 1) for ratio in ratios]
    low, _, high = statistics.quantiles(percents, n=4)
    note = f"quartiles over {len(percents)} pairs of blocks {low:+.2f} and {high:+.2f}"
    return at_most(what, wanted, statistics.median(percents), "%", note)


def _ratios(home: Path, where: Backends, rounds: int, *, threads: int) -> list[float]:
    """Give, for each round, the time of a block with three sinks over that of one with none."""
    torch.set_num_threads(threads)
    repeats = Product.repeats_of(STEP)
    with ExitStack() as stack:
        turns = []
        for name in PAIR:
            there = where.where("healthy", f"step-{threads}-{name}")
            job = job_of(
                name, home, there, block=BLOCK, rounds=rounds, threads=threads, repeats=repeats, pausing="stop"
            )
            turns.append(stack.enter_context(Turn(job, environment(there))))
        take_turns(turns, rounds)
        none, three = (turn.taken.walls for turn in turns)
    torch.set_num_threads(1)
    return [ours / bare for ours, bare in zip(three, none, strict=True)]
