"""The training loss: a weighted mean of the losses of several labels, over what is labelled.

A component of a label counts when it is finite, its atom is real (atomic number not 0) and the
label's mask, ``<label>_mask`` beside it, allows it if there is one: the rule of `ErrorSums`. What
does not count adds exactly nothing to a loss or a gradient, whatever the label or the prediction
holds there. Nothing is read from the device.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aimnet2mult.config.import_path import load_object
from aimnet2mult.distributed.rank_info import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.labels import LABELS
from aimnet2mult.metrics.masks import mask_name, reshaped, widened_mask
from telemetry.errors import did_you_mean

__all__ = ["MTLoss", "energy_loss_fn", "mean", "peratom_loss_fn"]

LossFn = Callable[..., Tensor]
SumFn = Callable[..., tuple[Tensor, Tensor]]


def mean(function: SumFn) -> LossFn:
    """Make a loss function of one that returns a sum and the number of what it is of: their quotient, 0 for none.

    Where several ranks share a batch, `MTLoss` takes the sum and the number, so that the loss is the mean over the
    whole batch. Of a loss function without them it takes the mean of the ranks' means.
    """

    @functools.wraps(function)
    def loss_fn(*arguments: Any, **kwargs: Any) -> Tensor:
        total, count = function(*arguments, **kwargs)
        return total / count.clamp(min=1)

    loss_fn.sum_and_count = function  # type: ignore[attr-defined]
    return loss_fn


class MTLoss:
    """A weighted sum of losses, called as ``loss(y_pred, y_true)`` as aimnet's of the same name.

    Args:
        components: for each name ``fn``, the dotted path of a function ``(y_pred, y_true, **kwargs)``
            that returns a scalar, best a `mean`; ``weight``, a number; and ``kwargs``, if it takes any. The weights
            are divided by their sum.

    Raises:
        ConfigError: a component has an unknown key, a function or an argument that is not there, a
            weight that is no finite number ≥ 0, or a label that nobody knows; or no weight is > 0.
    """

    def __init__(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        if "loss" in components:
            raise ConfigError("a component of the loss cannot be named 'loss'; that is the total's name")
        self._components: dict[str, tuple[LossFn, SumFn | None, float]] = {}
        self._ranks = Communicator()
        weights = {name: _weight(name, component) for name, component in components.items()}
        total = sum(weights.values())
        if not total:
            raise ConfigError(f"the weights of the loss are {weights}; expected one above 0")
        for name, component in components.items():
            self._components[name] = (*_functions(name, component), weights[name] / total)

    def use_ranks(self, ranks: Communicator) -> None:
        """From now on give each rank the loss of which the ranks' mean is that of all they have together.

        A call then exchanges the numbers of what counts; all ranks make it.
        """
        self._ranks = ranks

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the total under ``loss`` and each component, times its weight, under its name.

        Raises ValueError, naming the component, for a prediction that is not there or a wrong shape.
        """
        shared = self._ranks.world > 1
        values, counts = {}, {}
        for name, (function, sum_and_count, _) in self._components.items():
            try:
                if shared and sum_and_count is not None:
                    values[name], counts[name] = sum_and_count(y_pred=y_pred, y_true=y_true)
                else:
                    values[name] = function(y_pred=y_pred, y_true=y_true)
            except ValueError as error:
                raise ValueError(f"loss component {name!r}: {error}") from error
        if counts:
            values |= self._means({name: values[name] for name in counts}, counts)
        losses = {name: values[name] * weight for name, (*_, weight) in self._components.items()}
        losses["loss"] = torch.stack(tuple(losses.values())).sum()
        return losses

    def _means(self, totals: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Divide each total by the mean of the ranks' counts: the mean of the ranks' quotients is the mean of all."""
        counted = torch.stack(tuple(counts.values()))
        self._ranks.all_reduce_sum(counted)
        whole = dict(zip(counts, counted.clamp(min=1).unbind(), strict=True))
        return {name: total * self._ranks.world / whole[name] for name, total in totals.items()}


@mean
def energy_loss_fn(
    y_pred: Mapping[str, Tensor],
    y_true: Mapping[str, Tensor],
    key_pred: str = "energy",
    key_true: str = "energy",
) -> tuple[Tensor, Tensor]:
    """Return the mean over labelled structures of the squared error over √(number of real atoms).

    The normalisation is that of aimnet's function of the same name: an energy's error grows about as
    the square root of the number of atoms, so this lies between the errors per structure and per
    atom. Exactly 0 without a labelled structure. Arrays have the shape (B,) or (B, 1).

    Raises ValueError for a prediction that is not there and for any other shape.
    """
    numbers = _numbers(y_pred)
    pair = _pair(y_pred, y_true, key_pred, key_true, numbers)
    if pair is None:
        return _nothing(numbers)
    pred, true = pair
    natom = (numbers != 0).sum(-1)
    counted = torch.isfinite(true) & (natom > 0)
    mask = _mask(y_true, key_true, numbers)
    if mask is not None:
        counted = counted & mask.squeeze(-1)
    square = _error(pred, true, counted).square() / natom.clamp(min=1).to(pred.dtype).sqrt()
    return square.sum(), counted.sum()


@mean
def peratom_loss_fn(
    y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor], key_pred: str, key_true: str
) -> tuple[Tensor, Tensor]:
    """Return the mean squared error over the labelled components of real atoms; 0 without any.

    Arrays have the shape of the label: (B, N), or (B, N, 3) for forces, or one more axis of 1.

    Raises ValueError for a prediction that is not there and for any other shape.
    """
    numbers = _numbers(y_pred)
    pair = _pair(y_pred, y_true, key_pred, key_true, numbers)
    if pair is None:
        return _nothing(numbers)
    pred, true = pair
    atoms = numbers != 0
    mask = _mask(y_true, key_true, numbers)
    if mask is not None:
        atoms = atoms & mask
    counted = torch.isfinite(true) & (atoms if true.ndim == atoms.ndim else atoms.unsqueeze(-1))
    return _error(pred, true, counted).square().sum(), counted.sum()


def _numbers(y_pred: Mapping[str, Tensor]) -> Tensor:
    numbers = y_pred.get("numbers")
    if numbers is None or numbers.ndim != 2:  # noqa: PLR2004 - structures, atoms
        found = "none" if numbers is None else f"shape {tuple(numbers.shape)}"
        raise ValueError(f"the model has to return the atomic numbers, (B, N); found {found}")
    return numbers


def _pair(
    y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor], key_pred: str, key_true: str, numbers: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return prediction and label in one shape and type; None where neither exists.

    A label that is not there is all NaN, so that the loss has a gradient, of zeros, also then.
    """
    pred, true = y_pred.get(key_pred), y_true.get(key_true)
    if pred is None:
        if true is None:
            return None
        raise ValueError(f"the model returns no {key_pred!r}; it returns {', '.join(y_pred)}")
    shape = LABELS[key_true].shape(*numbers.shape)
    pred = reshaped(pred, shape, f"the prediction {key_pred!r}")
    if true is None:
        return pred, torch.full_like(pred, torch.nan)
    return pred, reshaped(true, shape, f"the label {key_true!r}").to(pred.dtype)


def _nothing(numbers: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros((), device=numbers.device), torch.zeros((), dtype=torch.int64, device=numbers.device)


def _mask(y_true: Mapping[str, Tensor], key_true: str, numbers: Tensor) -> Tensor | None:
    """Return the label's mask as (B, 1) or (B, N), if there is one."""
    key = mask_name(key_true)
    mask = y_true.get(key)
    if mask is None:
        return None
    structures, atoms = numbers.shape
    return widened_mask(mask, structures, atoms, f"the mask {key!r}", per_atom=LABELS[key_true].per_atom)


def _error(pred: Tensor, true: Tensor, counted: Tensor) -> Tensor:
    """Return the error where it counts, and 0 elsewhere.

    It has to be chosen before it is squared: afterwards the gradient elsewhere would be 0 · NaN.
    """
    return torch.where(counted, pred - true, torch.zeros((), dtype=pred.dtype, device=pred.device))


def _weight(name: str, component: Mapping[str, Any]) -> float:
    """Return a component's weight; ConfigError for one that cannot be used, or for an unknown key."""
    unknown = sorted(set(component) - {"fn", "weight", "kwargs"})
    missing = sorted({"fn", "weight"} - set(component))
    if unknown or missing:
        wrong = f"has no {missing[0]!r}" if missing else f"has a key {unknown[0]!r}"
        raise ConfigError(f"loss component {name!r} {wrong}; expected fn, weight and kwargs")
    weight = component["weight"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ConfigError(f"the weight of loss component {name!r} is {weight!r}; expected a number ≥ 0")
    return float(weight)


def _functions(name: str, component: Mapping[str, Any]) -> tuple[LossFn, SumFn | None]:
    """Return a component's function with its arguments, and that of its sum and count if it is a `mean`.

    Raises ConfigError for arguments that it does not take.
    """
    key = f"fn of loss component {name!r}"
    function = load_object(component["fn"], key)
    kwargs = component.get("kwargs") or {}
    try:
        bound = inspect.signature(function).bind(y_pred=None, y_true=None, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{key} is {component['fn']}, with {dict(kwargs)}: {error}") from error
    bound.apply_defaults()
    label = bound.arguments.get("key_true")
    if label is not None and label not in LABELS:
        hint = did_you_mean(label, LABELS)
        raise ConfigError(f"loss component {name!r} has no label {label!r}; labels: {', '.join(LABELS)}{hint}")
    sum_and_count = getattr(function, "sum_and_count", None)
    return partial(function, **kwargs), sum_and_count and partial(sum_and_count, **kwargs)
