"""Recognize single numbers of Python, NumPy and other libraries."""

from __future__ import annotations

from decimal import Decimal
from numbers import Real
from typing import Any


def is_number(value: object) -> bool:
    """Return whether a value can be published: a real number, or an array or tensor with one real element.

    Nothing is read from a device, and no library is imported.

    Examples:
        >>> import numpy as np
        >>> [is_number(value) for value in (1, 0.5, np.float32(1), np.ones((1, 1)), True)]
        [True, True, True, True, True]
        >>> [is_number(value) for value in ("1", None, 1j, np.ones(2), np.array("1"), [1])]
        [False, False, False, False, False, False]
    """
    if isinstance(value, Real | Decimal):
        return True
    array: Any = value
    if callable(getattr(array, "numel", None)):
        # A tensor of torch; sparse and quantized ones are rejected.
        return array.numel() == 1 and not array.is_complex() and str(getattr(array, "layout", "")) == "torch.strided"
    return getattr(array, "size", None) == 1 and getattr(getattr(array, "dtype", None), "kind", "") in {
        "b",
        "i",
        "u",
        "f",
    }


def as_float(value: object) -> float:
    """Return a number, or the element of an array or tensor with one element.

    Raises:
        TypeError, ValueError: it is not one number.
    """
    # item() accepts arrays and tensors with one element only, and float() rejects the complex number it may return.
    return float(value.item() if hasattr(value, "item") else value)  # type: ignore[arg-type]
