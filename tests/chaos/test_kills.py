"""SIGKILL at every fault point and at random times: each journaled record reaches each backend exactly once."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.chaos.backends import Recording, TensorBoard
from support.chaos.fault_points import OF_DELIVERY, OF_TRAINER, at
from support.chaos.figures import Figures
from support.chaos.lifetime import Life, live
from support.chaos.run import ChaosRun

pytest.importorskip("tensorboard")

LIVES = 20
"""Number of lives of one run."""


def rotation(chance: random.Random) -> list[dict[str, Any]]:
    """Make a sync fail, and kill the trainer while it starts the new segment that follows."""
    fails = {"role": "trainer", "point": "sync", "when": "before", "nth": chance.randint(2, 30), "do": "EIO"}
    kills = {"role": "trainer", "point": "rotate", "when": chance.choice(("before", "after")), "nth": 2, "do": "kill"}
    return [fails, kills]


def choose_life(chance: random.Random) -> Life:
    """Choose the processes to kill and the fault point."""
    kind = chance.choice(["trainer", "trainer", "rotation", "delivery", "delivery", "both", "job", "random", "random"])
    wait = chance.random() < 0.5
    if kind == "trainer":
        return Life([at("trainer", OF_TRAINER, chance)], wait=wait)
    if kind == "rotation":
        return Life(rotation(chance), wait=wait)
    if kind == "delivery":
        # The processes of both sinks, and their replacements.
        return Life([at("delivery", OF_DELIVERY, chance, times=4)])
    if kind == "both":
        return Life([at("delivery", OF_DELIVERY, chance, times=2), at("trainer", OF_TRAINER, chance)])
    if kind == "job":
        who, points = chance.choice([("trainer", OF_TRAINER), ("delivery", OF_DELIVERY)])
        return Life([at(who, points, chance, do="job")], wait=wait and who == "trainer")
    target = chance.choice(["trainer", "group", "delivery", "job"])
    return Life(wait=wait, after=chance.uniform(0, 0.4), target=target)


def run_lives(run: ChaosRun, seed: int) -> Figures:
    """Kill and resume a run repeatedly; in the end every record must be present."""
    chance = random.Random(seed)
    for _ in range(LIVES):
        live(run, choose_life(chance), points=400)
    figures = run.finish()
    run.check()
    return figures


def campaign(chaos_run: Callable[..., ChaosRun], kills: int, seed: int) -> Figures:
    """Repeat runs, two at a time, until the number of kills is reached."""
    total = Figures()
    chance = random.Random(seed)
    with ThreadPoolExecutor(2) as pool:
        while not total.hits or min(total.hits.values()) < kills:
            jobs = []
            for _ in range(2):
                options = {"sync": chance.choice((0.0, 0.0, 0.015)), "clock": chance.choice((0.0, -86400.0, 3600.0))}
                back = chance.choice((0, 0, 50, 1000))
                run = chaos_run(Recording(), TensorBoard(), seed=chance.randrange(1 << 30), back=back, **options)
                jobs.append(pool.submit(run_lives, run, chance.randrange(1 << 30)))
            for job in jobs:
                total.add(job.result())
    return total


def test_a_run_killed_in_many_ways_is_complete(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None]
) -> None:
    figures(campaign(chaos_run, 20, seed=1))


@pytest.mark.chaos
def test_a_thousand_kills(chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], count: int) -> None:
    figures(campaign(chaos_run, count, seed=2))


@pytest.mark.chaos
@pytest.mark.parametrize("sync", [0.0, 0.015, 0.1])
def test_records_lost_by_a_kill_of_the_trainer_at_one_point_per_millisecond(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], count: int, sync: float
) -> None:
    chance = random.Random(5)
    run = chaos_run(Recording(), sync=sync, back=1000)
    for _ in range(max(3, count // 20)):
        live(run, Life(after=chance.uniform(0.2, 0.6)), points=4000)
    figures(f"{run.finish()}; fdatasync of {1000 * sync:.0f} ms")
    run.check()
