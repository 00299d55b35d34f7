"""Simulated losses: a divergence is found, however slow, and a healthy training raises no alarm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from telemetry.alerts.detector import AnomalyDetector
from telemetry.alerts.settings import AlertSettings
from telemetry.metrics import Metric
from telemetry.records import Scalars

POINTS = 600
START = 200
"""Point at which the simulated divergences begin."""
SEEDS = range(6)


class Simulation:
    """The detector's view of a loss.

    Attributes:
        reported: points at which a divergence was reported.
        recovered: points at which a problem was reported as over.
        last_healthy: the last healthy step after each point.
    """

    def __init__(self, losses: Iterator[float], stream: str = "train_window") -> None:
        self.reported: list[int] = []
        self.recovered: list[int] = []
        self.last_healthy: list[int] = []
        self.detector = AnomalyDetector({f"{stream}/loss": Metric(watch=True)}, AlertSettings())
        for step, loss in enumerate(losses):
            for alert in self.detector.observe(Scalars(seq=1, time=1, stream=stream, step=step, values={"loss": loss})):
                if alert.recovered:
                    self.recovered.append(step)
                elif alert.cause == "diverging":
                    self.reported.append(step)
            self.last_healthy.append(self.detector.last_healthy_step)


def normal(chance: random.Random) -> float:
    return math.exp(chance.gauss(0, 0.15))


def wide(chance: random.Random) -> float:
    return math.exp(chance.gauss(0, 0.35))


def long_tailed(chance: random.Random) -> float:
    """Return lognormal noise with Student's t distribution of three degrees of freedom, and rare spikes."""
    student = chance.gauss(0, 1) / math.sqrt(chance.gammavariate(1.5, 1 / 1.5))
    return math.exp(0.15 * student) * (10 if chance.random() < 0.005 else 1)


NOISES = [normal, wide, long_tailed]


def power_law(n: int) -> float:
    return 3 * (1 + n) ** -0.6 + 0.02


def cosine_restarts(n: int) -> float:
    """Return a loss that rises threefold at each restart of the learning rate."""
    return (3 / (1 + n / 20) + 0.2) * (2 + math.cos(math.pi * (n % 200) / 200))


def warm_up(n: int) -> float:
    return 5 * min(1.0, 0.3 + n / 100) if n < 100 else 5 / (1 + (n - 100) / 30) + 0.1


def fine_tuning(n: int) -> float:
    """Return a loss that starts low, since the weights were trained before, and settles at more than twice that."""
    return 0.3 * (2.4 - 1.4 * math.exp(-n / 30))


def changed_weights(n: int) -> float:
    """Return a loss that a harder mixture of fidelities raises by a factor of 2.5 for the rest of the run."""
    return (2 / (1 + n / 30) + 0.3) * (2.5 if n > POINTS / 2 else 1)


def memorization(n: int) -> float:
    return 3 * math.exp(-n / 40) + 1e-6


def curve(shape: Callable[[int], float], noise: Callable[[random.Random], float], seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    for n in range(POINTS):
        yield shape(n) * noise(chance)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shape", [power_law, cosine_restarts, warm_up, fine_tuning, changed_weights, memorization])
def test_no_false_alarm(shape: Callable[[int], float], noise: Callable[[random.Random], float]) -> None:
    for seed in SEEDS:
        simulation = Simulation(curve(shape, noise, seed))
        assert (simulation.reported, simulation.detector.diverged) == ([], None)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("growth", "reported_within", "healthy_up_to"),
    [
        (lambda _: 20.0, 11, 0),
        (lambda m: 1.05 ** min(m, 150), 56, 36),
        (lambda m: 1.02 ** min(m, 150), 120, 75),
        (lambda m: 10 ** min(1.0, m / 300), 300, 185),
    ],
    ids=["20-fold jump", "5 % per point", "2 % per point", "10-fold drift"],
)
def test_a_divergence_is_reported_once_and_is_not_healthy(
    growth: Callable[[int], float],
    reported_within: int,
    healthy_up_to: int,
    noise: Callable[[random.Random], float],
) -> None:
    for seed in SEEDS:
        simulation = Simulation(
            curve(lambda n: power_law(min(n, START)) * (growth(n - START) if n >= START else 1), noise, seed)
        )
        (reported,) = simulation.reported
        assert START < reported <= START + reported_within
        assert simulation.detector.diverged is not None
        assert START - 25 < simulation.detector.last_healthy_step <= START + healthy_up_to


def test_a_five_fold_jump_is_not_healthy_although_it_is_too_small_for_a_divergence() -> None:
    for seed in SEEDS:
        simulation = Simulation(curve(lambda n: power_law(min(n, START)) * (5 if n >= START else 1), normal, seed))
        assert (simulation.reported, simulation.detector.active) == ([], ("spike",))
        assert simulation.detector.last_healthy_step < START


def test_a_divergence_is_over_once_the_loss_is_back() -> None:
    growth = [1.05 ** max(0, 100 - abs(n - 300)) for n in range(POINTS)]
    simulation = Simulation(curve(lambda n: growth[n], normal, 0))
    (reported,) = simulation.reported
    assert 200 < reported < 300 < simulation.recovered[-1] < 410
    assert (simulation.detector.active, simulation.detector.last_healthy_step) == ((), POINTS - 1)


def test_overfitting_is_no_divergence() -> None:
    simulation = Simulation(curve(lambda n: 1 + n / 50, normal, 0), "val")
    assert simulation.reported == []
    assert simulation.detector.last_healthy_step > POINTS - 5


def test_a_loss_that_may_be_negative_has_no_ratio_to_judge() -> None:
    simulation = Simulation(n / 10 for n in range(-100, 500))
    assert simulation.reported == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "level",
    [
        lambda n: 5 * math.exp(-n / 50) + 0.02,
        lambda n: 0.02 + math.exp(-n / 50) if n < START else 0.3,
        lambda n: 2 - 4 * n / POINTS,
        lambda n: 5 * math.exp(-n / 50) - 3,
    ],
    ids=["settles above 0", "rises from almost 0", "crosses 0", "negative"],
)
def test_no_false_alarm_for_a_loss_that_can_be_negative(level: Callable[[int], float], seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation(level(n) + chance.gauss(0, 0.05) for n in range(POINTS))
    assert (simulation.reported, simulation.detector.diverged) == ([], None)
    assert simulation.detector.last_healthy_step == POINTS - 1


def test_a_loss_that_can_be_negative_diverges_compared_with_its_first_values() -> None:
    simulation = Simulation((5 * math.exp(-n / 50) - 3 if n < START else 100) for n in range(POINTS))
    (reported,) = simulation.reported
    assert START < reported < START + 15
    assert simulation.detector.last_healthy_step == START - 1


def test_a_loss_that_was_0_diverges_compared_with_its_first_values() -> None:
    simulation = Simulation((max(0.0, 1 - n / 50) if n < START else 10) for n in range(POINTS))
    assert len(simulation.reported) == 1
    assert simulation.detector.last_healthy_step == START - 1


def test_the_first_points_do_not_count_as_a_level() -> None:
    assert Simulation(islice(iter([1.0] * 5 + [5.0] * 14), 19)).reported == []
