"""The structures that make the loss or its gradient non-finite are found among the others."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aimnet2mult.train.culprits import find_culprits
from aimnet2mult.train.engine import Batch


class RootModel(nn.Module):
    """A square root with a parameter: its gradient is NaN at 0, and its value is NaN below."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        # As a readout of a fidelity that is not in the batch.
        self.unused = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": (self.weight * self.frozen * data["x"]).sqrt()}


def find(values: Sequence[float], limit: int = 10, rows: Sequence[int] | None = None) -> list[int]:
    def load(part: NDArray[np.int64]) -> Batch:
        return {"x": torch.tensor(values)[part]}, {}

    def loss_fn(pred: dict[str, Tensor], _: object) -> dict[str, Tensor]:
        return {"loss": pred["energy"].sum()}

    chosen = np.arange(len(values)) if rows is None else np.array(rows)
    return find_culprits(RootModel(), loss_fn, load, chosen, limit=limit)


@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, torch.inf])
def test_a_value_or_a_gradient_that_is_not_finite_is_found(bad: float) -> None:
    assert find([1, 2, bad, 4, 5, 6, bad]) == [2, 6]
    assert find([bad]) == [0]


def test_without_a_culprit_nothing_is_found() -> None:
    assert find([1, 2, 3]) == []
    assert find([0], rows=[]) == []


def test_only_given_rows_are_examined_and_returned() -> None:
    assert find([-1, -1, 1, 1, -1], rows=[4, 2, 1]) == [4, 1]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_search_ends_at_the_limit(limit: int) -> None:
    assert find([-1] * 7, limit) == list(range(limit))
