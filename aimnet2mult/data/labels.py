"""Missing and infinite values of labels."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_FLOAT32", "is_infinite", "is_missing"]

MAX_FLOAT32 = float(np.finfo(np.float32).max)
"""Largest value of the type in which models are trained."""


def is_infinite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which values are infinite in float32."""
    # Comparing smaller types would convert them to float64.
    is_small = values.dtype.itemsize <= np.dtype(np.float32).itemsize
    infinite: npt.NDArray[np.bool_] = np.isinf(values) if is_small else np.abs(values) > MAX_FLOAT32
    return infinite


def is_missing(values: npt.NDArray[Any], is_atom: npt.NDArray[np.bool_], *, per_atom: bool) -> npt.NDArray[np.bool_]:
    """Return which structures have no finite value of a label; ``is_atom`` (B, N) excludes padding."""
    finite = np.isfinite(values)
    if per_atom:
        finite &= is_atom.reshape(is_atom.shape + (1,) * (values.ndim - 2))
    missing: npt.NDArray[np.bool_] = ~finite.any(axis=tuple(range(1, finite.ndim)))
    return missing
