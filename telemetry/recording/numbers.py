"""Recognize single numbers of Python, NumPy and other libraries."""

from __future__ import annotations

from decimal import Decimal
from numbers import Real
from typing import Any

_REAL_KINDS = ("b", "i", "u", "f")
"""Kinds of NumPy's data types: booleans, integers and floating-point numbers."""


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
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is not None:
        # NumPy counts its time intervals among the integers.
        return kind in _REAL_KINDS and getattr(value, "size", None) == 1
    return isinstance(value, Real | Decimal) or _is_real_tensor(value)


def _is_real_tensor(value: Any) -> bool:
    """Return whether a value is a dense tensor of torch with one real element."""
    try:
        dense = str(value.layout) == "torch.strided" and not value.is_nested and not value.is_meta
        return dense and value.numel() == 1 and not value.is_complex()
    except Exception:  # noqa: BLE001 - not a tensor, or one without data: the parameter of a lazy layer raises ValueError
        return False


def as_float(value: object) -> float:
    """Return a number, or the element of an array or tensor with one element.

    Raises:
        TypeError, ValueError: it is not one number.
    """
    # item() accepts arrays and tensors with one element only, and float() rejects the complex number it may return.
    return float(value.item() if hasattr(value, "item") else value)  # type: ignore[arg-type]
