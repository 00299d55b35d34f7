"""Schedules of several schedulers, compared with formulas, and resumed after each step."""

import io
import math
from collections.abc import Iterator
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
STEPS = 14
RATES = (1.0, 0.1)
"""The learning rates of the two parameter groups in the settings."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def part(cls: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": cls, "kwargs": kwargs}


def build(cfg: dict[str, Any]) -> tuple[torch.optim.Optimizer, Schedule]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in RATES]
    optimizer = torch.optim.SGD(groups)
    return optimizer, build_scheduler(optimizer, cfg, metrics=METRICS)


def rates_of(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


def advance(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> list[tuple[float, ...]]:
    """Return the learning rates of the next iterations."""
    found = []
    for _ in range(steps):
        found.append(rates_of(optimizer))
        optimizer.step()
        schedule.step_iteration()
    return found


WARM_UP_4 = part(f"{TORCH}.LinearLR", start_factor=0.2, total_iters=4)
COSINE_8 = part(f"{TORCH}.CosineAnnealingLR", T_max=8)
SEQUENTIAL = part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, COSINE_8], milestones=[4]) | {"step": "iteration"}
CHAINED = part(f"{TORCH}.ChainedScheduler", schedulers=[WARM_UP_4, part(f"{TORCH}.ExponentialLR", gamma=0.9)]) | {
    "step": "iteration"
}
CONCAT = part(
    f"{IGNITE}.ConcatScheduler",
    schedulers=[
        part(f"{IGNITE}.LinearCyclicalScheduler", start_value=0.0, end_value=0.8, cycle_size=8),
        part(f"{IGNITE}.CosineAnnealingScheduler", start_value=0.8, end_value=0.0, cycle_size=16),
    ],
    durations=[4],
)
WARM_UP = part(
    f"{IGNITE}.create_lr_scheduler_with_warmup", lr_scheduler=COSINE_8, warmup_start_value=0.0, warmup_duration=5
)
WARM_UP_OF_IGNITE = part(
    f"{IGNITE}.param_scheduler.create_lr_scheduler_with_warmup",
    lr_scheduler=part(f"{IGNITE}.CosineAnnealingScheduler", start_value=0.8, end_value=0.0, cycle_size=16),
    warmup_start_value=0.0,
    warmup_end_value=0.8,
    warmup_duration=5,
)
PIECEWISE = part(f"{IGNITE}.PiecewiseLinear", milestones_values=[[0, 0.1], [4, 0.5], [10, 0.2]])
DEEP = part(
    f"{IGNITE}.ConcatScheduler",
    schedulers=[PIECEWISE, part(f"{IGNITE}.LRScheduler", lr_scheduler=COSINE_8), CONCAT],
    durations=[3, 5],
)
BY_GROUP = part(
    f"{IGNITE}.ParamGroupScheduler",
    schedulers=[
        part(f"{IGNITE}.PiecewiseLinear", milestones_values=[[0, 0.1], [4, 0.5]], param_group_index=0),
        part(f"{IGNITE}.CosineAnnealingScheduler", start_value=1, end_value=0, cycle_size=8, param_group_index=1),
    ],
)
ALL = {
    "sequential": SEQUENTIAL,
    "chained": CHAINED,
    "concat": CONCAT,
    "warm-up": WARM_UP,
    "warm-up of ignite": WARM_UP_OF_IGNITE,
    "piecewise": PIECEWISE,
    "deep": DEEP,
    "by group": BY_GROUP,
    "nested sequence": part(
        f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, CHAINED["kwargs"]["schedulers"][1]], milestones=[6]
    )
    | {"step": "iteration"},
}


def half_cosine(step: int, length: int) -> float:
    return (1 + math.cos(math.pi * step / length)) / 2


def test_a_sequence_of_torch_is_a_linear_warm_up_followed_by_a_cosine_in_each_group() -> None:
    factors = [0.2 + 0.2 * step for step in range(4)] + [half_cosine(step, 8) for step in range(8)]
    found = advance(*build(SEQUENTIAL), 12)
    assert found == [pytest.approx([rate * factor for rate in RATES]) for factor in factors]


def test_chained_schedulers_multiply_their_factors() -> None:
    factors = [min(0.2 + 0.2 * step, 1) * 0.9**step for step in range(STEPS)]
    found = advance(*build(CHAINED), STEPS)
    assert found == [pytest.approx([rate * factor for rate in RATES]) for factor in factors]


def test_a_concatenation_of_ignite_is_a_linear_warm_up_followed_by_a_cosine() -> None:
    values = [0.8 * step / 4 for step in range(4)] + [0.8 * half_cosine(step, 16) for step in range(8)]
    assert advance(*build(CONCAT), 12) == [pytest.approx([value, value]) for value in values]


def test_a_warm_up_of_ignite_ends_at_the_learning_rate_of_each_group() -> None:
    factors = [step / 4 for step in range(5)] + [half_cosine(step, 8) for step in range(1, 8)]
    found = advance(*build(WARM_UP), 12)
    assert found == [pytest.approx([rate * factor for rate in RATES], abs=1e-12) for factor in factors]


def test_a_warm_up_of_an_ignite_scheduler_continues_with_its_values() -> None:
    values = [0.2 * step for step in range(4)] + [0.8 * half_cosine(step, 16) for step in range(8)]
    assert advance(*build(WARM_UP_OF_IGNITE), 12) == [pytest.approx([value, value]) for value in values]


def test_milestones_are_pairs_in_a_list() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.2]
    assert advance(*build(PIECEWISE), 12) == [pytest.approx([value, value]) for value in values]


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_resumed_after_any_step_equals_an_uninterrupted_one(name: str) -> None:
    whole = advance(*build(ALL[name]), STEPS)
    for stop in range(STEPS):
        first, schedule = build(ALL[name])
        advance(first, schedule, stop)
        file = io.BytesIO()
        torch.save([first.state_dict(), schedule.state_dict()], file)
        file.seek(0)
        second, resumed = build(ALL[name])
        optimizer_state, schedule_state = torch.load(file, weights_only=True)
        second.load_state_dict(optimizer_state)
        resumed.load_state_dict(schedule_state)
        assert advance(second, resumed, STEPS - stop) == whole[stop:], stop


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, part(f"{TORCH}.CosineLR")], milestones=[4]),
            r"scheduler.kwargs.schedulers\[1\].class is 'torch.optim.lr_scheduler.CosineLR'; .* has no CosineLR",
        ),
        (
            part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, part("os.path.join")], milestones=[4]),
            r"scheduler.kwargs.schedulers\[1\].class is 'os.path.join': a scheduler may come from",
        ),
        (
            part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, {**COSINE_8, "step": "val"}], milestones=[4]),
            r"scheduler.kwargs.schedulers\[1\] has no key 'step'; its keys are class, kwargs",
        ),
        (
            part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, part(f"{TORCH}.StepLR")], milestones=[4]),
            r"scheduler.kwargs.schedulers\[1\]: cannot build StepLR with {}: .*step_size",
        ),
        (
            part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, COSINE_8], milestones=[]),
            r"scheduler: cannot build SequentialLR",
        ),
        (
            part(f"{TORCH}.SequentialLR", schedulers=[WARM_UP_4, CONCAT], milestones=[4]),
            r"scheduler.class: SequentialLR of torch cannot contain schedulers of ignite",
        ),
        (
            part(f"{IGNITE}.create_lr_scheduler_with_warmup", lr_scheduler=part(f"{TORCH}.ReduceLROnPlateau")),
            r"scheduler.kwargs.lr_scheduler.class is .*ReduceLROnPlateau, which needs a metric and cannot be part of",
        ),
        (part(f"{IGNITE}.create_lr_scheduler_with_warmup"), r"scheduler: cannot build create_lr_scheduler_with_warmup"),
        (part(f"{IGNITE}.EarlyStopping"), r"scheduler.class is ignite.handlers.EarlyStopping, which is not a torch"),
        (part(f"{IGNITE}.global_step_from_engine"), r"scheduler.class is .*global_step_from_engine, which is not a "),
        (
            part(
                f"{IGNITE}.LRScheduler",
                lr_scheduler=part(f"{TORCH}.CosineAnnealingWarmRestarts", T_0=3),
            ),
            r"scheduler.class: LRScheduler cannot be used here, because a checkpoint cannot contain its state",
        ),
    ],
)
def test_an_invalid_part_of_a_schedule_is_named(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(cfg)


@pytest.mark.parametrize("cfg", [SEQUENTIAL, DEEP], ids=["torch", "ignite"])
def test_the_state_of_a_nested_scheduler_cannot_replace_its_methods(cfg: dict[str, Any]) -> None:
    _, schedule = build(cfg)
    state = schedule.state_dict()
    inner = state["state"].get("_schedulers") or [state["state"]["schedulers"][1]["lr_scheduler"]]
    inner[0]["step"] = 1
    with pytest.raises(ValueError, match="unknown entry 'step'"):
        schedule.load_state_dict(state)
