"""A skipped step leaves no trace in parameters and optimizer, whether or not its flag is read."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aimnet2mult.train.guarded_step import GuardedStep, MaskedStep, ReadStep, guarded_step
from support.host_reads import no_host_reads

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}


def parameters() -> list[nn.Parameter]:
    """Return parameters of several shapes and types."""
    rng = torch.Generator().manual_seed(0)
    shapes: list[tuple[tuple[int, ...], torch.dtype]] = [((3, 2), torch.float32), ((), torch.float64)]
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape, dtype in shapes]


def train(optimizer: Optimizer, step: GuardedStep, flags: Iterable[bool], *, omit: bool = False) -> None:
    """Take steps, with gradients of NaN where the flag is false; ``omit`` leaves those out."""
    rng = torch.Generator().manual_seed(1)
    for flag in flags:
        for group in optimizer.param_groups:
            for p in group["params"]:
                gradient = torch.randn(p.shape, generator=rng, dtype=p.dtype)
                p.grad = gradient if flag else torch.full_like(gradient, torch.nan)
        if flag or not omit:
            step(torch.tensor(flag))


def bits(optimizer: Optimizer) -> list[Tensor]:
    values: list[Any] = [p for group in optimizer.param_groups for p in group["params"]]
    for state in optimizer.state.values():
        values += state.values()
    return [torch.as_tensor(value) for value in values]


@pytest.mark.parametrize("flags", [[True, False, True, True, False, False, True, True], [False, True, False, True]])
@pytest.mark.parametrize("kind", [ReadStep, MaskedStep])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_leaves_no_trace(name: str, kind: type[ReadStep | MaskedStep], flags: list[bool]) -> None:
    expected = OPTIMIZERS[name](parameters())
    train(expected, ReadStep(expected), flags, omit=True)
    optimizer = OPTIMIZERS[name](parameters())
    train(optimizer, kind(optimizer), flags)
    assert len(bits(optimizer)) == len(bits(expected))
    assert all(torch.equal(one, two) for one, two in zip(bits(optimizer), bits(expected), strict=True))


def test_a_masked_step_reads_its_flag_only_once() -> None:
    optimizer = OPTIMIZERS["SGD with momentum"](parameters())
    step = MaskedStep(optimizer)
    train(optimizer, step, [True])
    flags = [torch.tensor(flag) for flag in (True, False, True)]
    with no_host_reads():
        for flag in flags:
            step(flag)


def test_a_parameter_whose_first_gradient_comes_late_is_protected_as_well() -> None:
    first, second = parameters()
    optimizer = torch.optim.SGD([first, second], lr=0.1, momentum=0.9)
    step = MaskedStep(optimizer)
    first.grad = torch.ones_like(first)
    step(torch.tensor(True))
    before = copy.deepcopy(second.data)
    for value in (torch.nan, 1.0, torch.nan):
        second.grad = torch.full_like(second, value)
        step(torch.tensor(value == 1))
    # Two steps of SGD would subtract 0.1 + 0.19.
    assert second.item() == pytest.approx(before.item() - 0.1)
    assert optimizer.state[second]["momentum_buffer"] == 1


def test_the_flag_is_read_only_on_the_cpu() -> None:
    optimizer = OPTIMIZERS["SGD"](parameters())
    assert isinstance(guarded_step(optimizer, torch.device("cpu")), ReadStep)
    assert isinstance(guarded_step(optimizer, torch.device("cuda", 1)), MaskedStep)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_parameters_of_every_precision_are_restored(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.tensor([1.5, -2.0], dtype=dtype))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    step = MaskedStep(optimizer)
    for gradient, expected in ((1.0, 1.0), (torch.nan, 1.0), (1.0, 0.5)):
        weight.grad = torch.full_like(weight, gradient)
        step(weight.grad.isfinite().all())
        assert weight[0].item() == expected


def test_a_schedule_may_step_after_a_first_step_that_was_skipped() -> None:
    """Warnings are errors in tests."""
    optimizer = OPTIMIZERS["SGD"](parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(optimizer, guarded_step(optimizer, torch.device("cpu")), [False])
    schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(0.01)]
