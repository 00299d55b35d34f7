"""The arguments of an update of error sums."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    """A batch with its predictions; see `ErrorSums.update`."""

    pred: Mapping[str, Tensor]
    true: Mapping[str, Tensor]
    numbers: Tensor
    fidelity: Tensor
    loss: Mapping[str, Tensor] | None = None
    applied: Tensor | None = None
