"""Schedules that end before the training, compared with the learning rates that they set."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.statistics import MetricInfo
from aimnet2mult.train.optimizer import Schedule, build_scheduler
from aimnet2mult.train.validation_metrics import ValidationMetrics

METRICS = ValidationMetrics(known={"loss": MetricInfo(text="loss", better="lower")}, available=("loss",))
TORCH, IGNITE = "torch.optim.lr_scheduler", "ignite.handlers"


def part(cls: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": cls, "kwargs": kwargs}


COSINE = part(f"{TORCH}.CosineAnnealingLR", T_max=8)
COSINE_OF_IGNITE = part(f"{IGNITE}.CosineAnnealingScheduler", start_value=1.0, end_value=0.0, cycle_size=8)
SEQUENTIAL = part(
    f"{TORCH}.SequentialLR",
    schedulers=[part(f"{TORCH}.ConstantLR", factor=1.0, total_iters=4), COSINE],
    milestones=[4],
)
CONCAT = part(
    f"{IGNITE}.ConcatScheduler",
    schedulers=[part(f"{IGNITE}.PiecewiseLinear", milestones_values=[[0, 1.0], [4, 1.0]]), COSINE_OF_IGNITE],
    durations=[4],
)
CUT = part(f"{TORCH}.SequentialLR", schedulers=[COSINE, part(f"{TORCH}.ConstantLR")], milestones=[6])
CHAINED = part(f"{TORCH}.ChainedScheduler", schedulers=[COSINE, part(f"{TORCH}.ExponentialLR", gamma=0.99)])
WARM_UP = part(
    f"{IGNITE}.create_lr_scheduler_with_warmup", lr_scheduler=COSINE, warmup_start_value=1.0, warmup_duration=5
)
ONE_CYCLE = part(f"{TORCH}.OneCycleLR", max_lr=1.0, total_steps=8)
ONE_CYCLE_AFTER_4 = part(f"{TORCH}.SequentialLR", schedulers=[part(f"{TORCH}.ConstantLR"), ONE_CYCLE], milestones=[4])


def build(cfg: dict[str, Any]) -> tuple[torch.optim.Optimizer, Schedule]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, build_scheduler(optimizer, {**cfg, "step": "iteration"}, metrics=METRICS)


def rises(cfg: dict[str, Any], steps: int) -> bool:
    """Return whether the learning rate of a later iteration exceeds that of an earlier one."""
    optimizer, schedule = build(cfg)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step_iteration()
    return any(later > earlier + 1e-9 for earlier, later in pairwise(rates))


@pytest.mark.parametrize("cfg", [COSINE, COSINE_OF_IGNITE, SEQUENTIAL, CONCAT, CHAINED], ids=lambda cfg: cfg["class"])
@pytest.mark.parametrize("steps", [1, 7, 8, 9, 10, 12, 13, 14, 20])
def test_a_cosine_is_reported_if_the_rate_rises_again(cfg: dict[str, Any], steps: int) -> None:
    lines = build(cfg)[1].check_length(iterations=steps, epochs=1, validations=1)
    # ignite's begins again at the end; one step too many is not worth a warning.
    tolerated = "ignite" in cfg["class"] and not rises(cfg, steps - 1)
    assert bool(lines) == (rises(cfg, steps) and not tolerated)


def test_a_cosine_after_a_warm_up_of_ignite_is_reported() -> None:
    _, schedule = build(WARM_UP)
    assert not schedule.check_length(iterations=13, epochs=1, validations=1)
    assert schedule.check_length(iterations=20, epochs=1, validations=1)


def test_a_cosine_that_another_schedule_follows_is_not_reported() -> None:
    assert not build(CUT)[1].check_length(iterations=100, epochs=1, validations=1)


def test_the_warning_has_the_numbers_and_the_remedy() -> None:
    (line,) = build(SEQUENTIAL)[1].check_length(iterations=2004, epochs=1, validations=1)
    assert line == (
        "warning: scheduler: the cosine of CosineAnnealingLR ends after 8 of 2,000 iterations, and the learning rate "
        "then rises again; to prevent that, set its T_max=2000"
    )


@pytest.mark.parametrize(("step", "unit"), [("iteration", "iterations"), ("epoch", "epochs"), ("val", "validations")])
def test_the_steps_are_those_of_the_schedule(step: str, unit: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    schedule = build_scheduler(optimizer, {**COSINE, "step": step}, metrics=METRICS)
    counts = {"iterations": 1, "epochs": 1, "validations": 1}
    assert not schedule.check_length(**counts)
    assert f"8 of 40 {unit}" in schedule.check_length(**{**counts, unit: 40})[0]


@pytest.mark.parametrize("cfg", [ONE_CYCLE, ONE_CYCLE_AFTER_4], ids=["alone", "in a sequence"])
@pytest.mark.parametrize("steps", [7, 8, 9, 11, 12, 13])
def test_one_cycle_that_cannot_reach_the_end_is_an_error(cfg: dict[str, Any], steps: int) -> None:
    try:
        rises(cfg, steps)
    except ValueError:
        with pytest.raises(ConfigError, match="OneCycleLR ends after 8 steps and cannot continue"):
            build(cfg)[1].check_length(iterations=steps, epochs=1, validations=1)
    else:
        assert not build(cfg)[1].check_length(iterations=steps, epochs=1, validations=1)


def test_a_constant_learning_rate_has_no_end() -> None:
    assert not Schedule(None).check_length(iterations=10**6, epochs=1, validations=1)
