"""is_number: what can be published as a metric."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from telemetry import is_number


@pytest.mark.parametrize(
    "value",
    [
        1,
        0.5,
        True,
        Fraction(1, 2),
        Decimal("0.5"),
        np.float16(1),
        np.int64(1),
        np.True_,
        np.array(1.0),
        np.ones((1, 1)),
    ],
    ids=repr,
)
def test_single_real_numbers_are_numbers(value: object) -> None:
    assert is_number(value)


@pytest.mark.parametrize(
    "value",
    [
        np.timedelta64(1, "s"),
        None,
        "1",
        b"1",
        1j,
        [1],
        {"a": 1},
        object(),
        np.complex64(1),
        np.ones(2),
        np.array([]),
        np.array("1"),
        float,
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:6]}",
)
def test_anything_else_is_not(value: object) -> None:
    assert not is_number(value)


def test_tensors_with_one_real_element_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    assert all(map(is_number, (torch.tensor(1), torch.ones(1, 1, requires_grad=True), torch.tensor(1).bfloat16())))
    assert not any(map(is_number, (torch.ones(2), torch.tensor(1j), torch.ones(1).to_sparse())))


def test_objects_of_torch_without_a_readable_element_are_not_numbers() -> None:
    torch = pytest.importorskip("torch")
    uninitialized = torch.nn.LazyLinear(1).weight
    assert not any(map(is_number, (torch.Size([1]), torch.ones(1, device="meta"), uninitialized)))
