"""The training loss: a weighted mean of the losses of several labels.

A component of a label counts if it is finite, its atom is real (atomic number not 0) and the label's mask,
``<label>_mask``, if there is one, allows it; `ErrorSums` applies the same rule. Components that do not count contribute
exactly zero to loss and gradient, whatever the label and the prediction are. Nothing is read from the device.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.layout import LossTerms
from aimnet2mult.metrics.losses import Losses
from aimnet2mult.metrics.masks import count_labeled, expand_mask, mask_name, match_shape
from aimnet2mult.train.loss_components import LossFn, SumFn, check_keys, find_functions
from aimnet2mult.train.loss_weights import LossWeights

__all__ = ["MTLoss", "energy_loss_fn", "mean", "mse_loss_fn", "peratom_loss_fn"]


def mean(function: SumFn) -> LossFn:
    """Turn a function that returns a sum and a count into a loss function that returns sum / count, or 0 if count is 0.

    If several ranks share a batch, `MTLoss` reduces sum and count separately, so that the loss is the mean over the
    whole batch. The loss of a function without this decorator is the mean over the ranks instead.

    Over several batches, the published loss is likewise the quotient of the pooled sums and counts, whatever the size
    of the batches. Without this decorator, it is the mean of the batch losses, weighted by the number of structures
    with any label.
    """

    @functools.wraps(function)
    def loss_fn(*arguments: Any, **kwargs: Any) -> Tensor:
        total, count = function(*arguments, **kwargs)
        return total / count.clamp(min=1)

    loss_fn.sum_and_count = function  # type: ignore[attr-defined]
    return loss_fn


class MTLoss:
    """A weighted sum of losses, called as ``loss(y_pred, y_true)`` like aimnet's class of the same name.

    Args:
        components: settings of each component by name: ``fn``, the dotted path of a function ``(y_pred, y_true,
            **kwargs)`` that returns a scalar, preferably decorated with `mean`; ``weight``, a number, or points
            ``[iteration, weight]`` between which it is linear; and optionally ``kwargs``. In each iteration, the
            weights are divided by their sum.

    Raises:
        ConfigError: a component has an unknown key, function or argument, or an invalid weight; or all weights are 0 in
            an iteration.
    """

    def __init__(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        if "loss" in components:
            raise ConfigError("a loss component cannot be named 'loss', which is the name of the total; rename it")
        self._communicator = Communicator()
        check_keys(components)
        self.weights = LossWeights({name: component["weight"] for name, component in components.items()})
        """The weights by iteration."""
        if not components:
            raise ConfigError("the weights of the loss components are {}; expected at least one above 0")
        self._functions = {name: find_functions(name, component) for name, component in components.items()}
        self._uncounted = [i for i, (_, sum_and_count) in enumerate(self._functions.values()) if sum_and_count is None]
        self.terms = LossTerms(names=tuple(components), weights=self.weights.final)
        """The components and their final weights, for `ErrorSums`: published losses are comparable, whatever the
        iteration."""
        self.current_weights: Tensor | None = None
        """The weights of the last call if they change, on the device; None if they do not."""

    def use_ranks(self, ranks: Communicator) -> None:
        """Share each batch with other ranks: the mean loss over the ranks is then the loss of the whole batch.

        Each call of the loss then sums the counts over the ranks, so all ranks must call it.
        """
        self._communicator = ranks

    def set_iteration(self, iteration: int) -> None:
        """Use the weights of a training iteration, counted from 1, until the next call."""
        self.weights.iteration = iteration

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the total as ``loss`` and each component, multiplied by its weight, under its name.

        The result is `Losses` with sums and counts, which cover only this rank's share of the batch. A subclass that
        changes the total must return a plain dictionary instead; the mean of the total over several batches is then
        weighted by structures.

        Raises:
            ConfigError: a prediction is missing or a shape does not fit; the message names the component.
        """
        sums, counts = [], []
        for name, (function, sum_and_count) in self._functions.items():
            try:
                if sum_and_count is None:
                    sums.append(function(y_pred=y_pred, y_true=y_true))
                    counts.append(torch.ones((), dtype=torch.int64, device=sums[-1].device))
                else:
                    total, count = sum_and_count(y_pred=y_pred, y_true=y_true)
                    sums.append(total)
                    counts.append(count)
            except ValueError as error:
                raise ConfigError(f"loss component {name!r}: {error}") from error
        # One operation for all components is faster than one for each.
        total, counted = torch.stack(sums), torch.stack(counts)
        weights = self._current_weights(total.dtype, total.device)
        losses = self._means(total, counted) * weights
        by_name = dict(zip(self._functions, losses.unbind(), strict=True))
        return Losses({**by_name, "loss": losses.sum()}, self._terms(total, counted, y_true), (total, weights))

    @property
    def functions(self) -> dict[str, Any]:
        """The function of each component, a `functools.partial` with its arguments."""
        return {name: function for name, (function, _) in self._functions.items()}

    def _current_weights(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        weights = self.weights.as_tensor(dtype, device)
        if self.weights.change:
            self.current_weights = weights
        return weights

    @torch.no_grad()
    def _terms(self, sums: Tensor, counts: Tensor, y_true: Mapping[str, Tensor]) -> Tensor:
        """Return sums and counts of all components; a value without a count counts once per labeled structure."""
        terms = torch.stack((sums.double(), counts.double()))
        if self._uncounted:
            structures = count_labeled(y_true)
            for index in self._uncounted:
                terms[:, index].mul_(structures)
        return terms

    def _means(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Divide each sum by its count; with several ranks, the mean of these quotients over the ranks is the mean.

        For this, the count of a rank is replaced by the mean count of the ranks.
        """
        ranks = self._communicator.world_size
        if ranks == 1 or len(self._uncounted) == len(counts):
            return sums / counts.clamp(min=1)
        whole = counts.clone()
        self._communicator.all_reduce_sum(whole)
        return sums * ranks / whole.clamp(min=1)


@mean
def energy_loss_fn(
    y_pred: Mapping[str, Tensor],
    y_true: Mapping[str, Tensor],
    key_pred: str = "energy",
    key_true: str = "energy",
) -> tuple[Tensor, Tensor]:
    """Return the mean over the labeled structures of the squared error divided by √(number of real atoms).

    The normalization is the same as in aimnet's function of this name: since errors of energies grow roughly with the
    square root of the number of atoms, it lies between errors per structure and per atom. The loss is exactly 0 if
    there is no labeled structure. Arrays have shape (B,) or (B, 1).

    Raises:
        ValueError: the prediction is missing, or a shape does not fit.
    """
    numbers = _numbers(y_pred)
    pair = _pair(y_pred, y_true, key_pred, key_true, numbers.shape[:1], several=False)
    if pair is None:
        return _zero_sum_and_count(numbers)
    pred, true = pair
    natom = (numbers != 0).sum(-1)
    counted = torch.isfinite(true) & (natom > 0)
    mask = _mask(y_true, key_true, numbers, per_atom=False)
    if mask is not None:
        counted = counted & mask.squeeze(-1)
    square = _error(pred, true, counted).square() / natom.clamp(min=1).to(pred.dtype).sqrt()
    return square.sum(), counted.sum()


@mean
def peratom_loss_fn(
    y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor], key_pred: str, key_true: str
) -> tuple[Tensor, Tensor]:
    """Return the mean squared error over the labeled components of real atoms; 0 if there are none.

    Arrays have the shape of the label, (B, N) or for forces (B, N, 3), optionally with a trailing axis of 1.

    Raises:
        ValueError: the prediction is missing, or a shape does not fit.
    """
    return _squares(y_pred, y_true, key_pred, key_true, per_atom=True)


@mean
def mse_loss_fn(
    y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor], key_pred: str, key_true: str
) -> tuple[Tensor, Tensor]:
    """Return the same as `peratom_loss_fn` over the labeled components of structures: (B,) or for dipoles (B, 3)."""
    return _squares(y_pred, y_true, key_pred, key_true, per_atom=False)


def _squares(
    y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor], key_pred: str, key_true: str, *, per_atom: bool
) -> tuple[Tensor, Tensor]:
    """Return the sum of the squared errors, and the number of components that count."""
    numbers = _numbers(y_pred)
    pair = _pair(y_pred, y_true, key_pred, key_true, numbers.shape if per_atom else numbers.shape[:1])
    if pair is None:
        return _zero_sum_and_count(numbers)
    pred, true = pair
    real = numbers != 0 if per_atom else (numbers != 0).any(-1, keepdim=True)
    mask = _mask(y_true, key_true, numbers, per_atom=per_atom)
    if mask is not None:
        real = real & mask
    real = real if per_atom else real.squeeze(-1)
    counted = torch.isfinite(true) & (real if true.ndim == real.ndim else real.unsqueeze(-1))
    return _error(pred, true, counted).square().sum(), counted.sum()


def _numbers(y_pred: Mapping[str, Tensor]) -> Tensor:
    numbers = y_pred.get("numbers")
    if numbers is None or numbers.ndim != 2:  # noqa: PLR2004 - structures, atoms
        found = "none" if numbers is None else f"shape {tuple(numbers.shape)}"
        raise ValueError(f"the model must return the atomic numbers as 'numbers' of shape (B, N); found {found}")
    return numbers


def _pair(
    y_pred: Mapping[str, Tensor],
    y_true: Mapping[str, Tensor],
    key_pred: str,
    key_true: str,
    axes: Sequence[int],
    *,
    several: bool = True,
) -> tuple[Tensor, Tensor] | None:
    """Return prediction and label in the same shape and dtype; None if neither exists.

    A missing label is replaced by NaN, so that the loss still has a gradient (of zeros). ``axes`` are the numbers of
    structures and, for a per-atom label, atoms. If there may be several components, the prediction determines how many.
    """
    pred, true = y_pred.get(key_pred), y_true.get(key_true)
    if pred is None:
        if true is None:
            return None
        raise ValueError(f"the model returns no {key_pred!r}; it returns {', '.join(y_pred)}")
    rest = tuple(pred.shape[len(axes) :]) if several else ()
    shape = (*axes, *(() if rest == (1,) else rest))
    pred = match_shape(pred, shape, f"the prediction {key_pred!r}")
    if true is None:
        return pred, torch.full_like(pred, torch.nan)
    return pred, match_shape(true, shape, f"the label {key_true!r}").to(pred.dtype)


def _zero_sum_and_count(numbers: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros((), device=numbers.device), torch.zeros((), dtype=torch.int64, device=numbers.device)


def _mask(y_true: Mapping[str, Tensor], key_true: str, numbers: Tensor, *, per_atom: bool) -> Tensor | None:
    """Return the mask of the label as (B, 1) or (B, N), or None."""
    key = mask_name(key_true)
    if (mask := y_true.get(key)) is None:
        return None
    structures, atoms = numbers.shape
    return expand_mask(mask, structures, atoms, f"the mask {key!r}", per_atom=per_atom)


def _error(pred: Tensor, true: Tensor, counted: Tensor) -> Tensor:
    """Return the error where it counts, and 0 elsewhere.

    Select before squaring: otherwise the gradient elsewhere would be 0 · NaN.
    """
    return torch.where(counted, pred - true, torch.zeros((), dtype=pred.dtype, device=pred.device))
