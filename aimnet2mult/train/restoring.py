"""Restore the parts of a run from a checkpoint, and check that training can continue with them.

An error in the state of an optimizer or schedule would otherwise appear in the first step.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

__all__ = ["Stateful", "check_alike", "check_arrays", "restore_part"]


COUNTDOWNS = ("_current_duration",)
"""Entries of a state that may become 0 or negative."""


@runtime_checkable
class Stateful(Protocol):
    """An object whose state consists of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Restore the state from `state_dict`."""
        ...


def restore_part(part: Stateful, state: Any) -> None:
    """Restore an object from a state, and check the state.

    Raises:
        Exception: Any, if the state does not fit the object, because torch does not check it.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"expected a state, found a {type(state).__name__}")
    if isinstance(part, nn.Module):
        check_arrays(part.state_dict(), state)
    part.load_state_dict(state)
    if isinstance(part, Optimizer):
        _check_steps(part)


def check_alike(own: object, saved: object, name: str) -> None:
    """Check that a saved value may replace one of this run: numbers only numbers, and so on.

    Entries that only one of them has are accepted, since they differ between versions of torch.

    Raises:
        ValueError: It is of another kind; the message has its name.
    """
    if isinstance(own, Mapping) and isinstance(saved, Mapping):
        for key in (own.keys() & saved.keys()) - set(COUNTDOWNS):
            check_alike(own[key], saved[key], f"{name}.{key}")
    elif isinstance(own, list | tuple) and isinstance(saved, list | tuple):
        for index, (one, other) in enumerate(zip(own, saved, strict=False)):
            check_alike(one, other, f"{name}.{index}")
    elif isinstance(own, Real):
        # The period of a schedule stays positive.
        if not isinstance(saved, Real) or math.isnan(saved) or (isinstance(own, int) and own > 0 >= saved):
            raise ValueError(f"{name} is {saved!r:.60}; expected a number like {own!r}")
    elif own is not None and not isinstance(own, torch.Tensor) and type(own) is not type(saved):
        raise ValueError(f"{name} is a {type(saved).__name__}; expected a {type(own).__name__}")


def check_arrays(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check the types of the weights that both have, and that they are finite, but neither names nor shapes.

    Raises:
        TypeError: A weight is of another type.
        ValueError: A weight is not finite.
    """
    for name in own.keys() & saved.keys():
        value = saved[name]
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; expected an array")
        if value.dtype != own[name].dtype or value.layout != own[name].layout:
            raise TypeError(f"{name} has type {value.dtype}; expected {own[name].dtype}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite")


def _check_steps(optimizer: Optimizer) -> None:
    """Step copies of the parameters with zero gradients, one at a time, as far as the optimizer is one of torch."""
    if not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, LBFGS):
        return
    for number, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            trial = nn.Parameter(parameter.detach().clone())
            trial.grad = torch.zeros_like(trial)
            stepped = copy.copy(optimizer)
            stepped.param_groups = [{**group, "params": [trial]}]
            stepped.state = defaultdict(dict, {trial: copy.deepcopy(optimizer.state.get(parameter, {}))})
            try:
                # A schedule replaces the method of the object by one that steps the original.
                type(optimizer).step(stepped)
            except Exception as error:
                raise ValueError(f"state of parameter {index} of group {number}: {error!r}") from error
            if not bool(trial.isfinite().all()):
                raise ValueError(f"state of parameter {index} of group {number}: the next step is not finite")
