"""Find the structures of a batch whose loss or gradient is not finite."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aimnet2mult.train.engine import Batch, LossFunction

__all__ = ["find_culprits", "has_finite_gradient"]

Rows = NDArray[np.int64]


def find_culprits(
    model: nn.Module, loss_fn: LossFunction, load: Callable[[Rows], Batch], rows: Rows, *, limit: int, parts: int = 1
) -> list[int]:
    """Return up to ``limit`` rows that make loss or gradient non-finite by themselves, by repeated halving.

    Nothing about the training changes: the model is copied, and the random state is restored.

    Args:
        model: the model, in the mode in which it is trained.
        loss_fn: the loss function, which must not communicate with other ranks.
        load: function of rows that returns them as a batch on the device of the model.
        rows: rows to examine.
        limit: maximum number of rows.
        parts: number of parts into which the rows are divided first, because memory may not suffice for all.
    """
    model = copy.deepcopy(model)
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices):
        return _search_parts(
            np.array_split(rows, parts), lambda part: has_finite_gradient(model, loss_fn, load(part)), limit
        )


def has_finite_gradient(model: nn.Module, loss_fn: LossFunction, batch: Batch) -> bool:
    """Return whether loss and gradient of a batch are finite; waits for the device."""
    x, y = batch
    loss = loss_fn(model(dict(x)), y)["loss"]
    if not loss.isfinite():
        return False
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
    return bool(torch.nn.utils.get_total_norm([g for g in gradient if g is not None]).isfinite())


def _search(rows: Rows, is_finite: Callable[[Rows], bool], limit: int) -> list[int]:
    if not len(rows) or is_finite(rows):
        return []
    if len(rows) == 1:
        return [int(rows[0])]
    return _search_parts(np.array_split(rows, 2), is_finite, limit)


def _search_parts(parts: Sequence[Rows], is_finite: Callable[[Rows], bool], limit: int) -> list[int]:
    found: list[int] = []
    for part in parts:
        if len(found) < limit:
            found += _search(part, is_finite, limit - len(found))
    return found
