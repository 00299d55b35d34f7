"""Missing and infinite values of labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.places import counted

__all__ = ["MAX_FLOAT32", "InfiniteValues", "is_infinite", "is_missing", "without_infinite"]

MAX_FLOAT32 = float(np.finfo(np.float32).max)
"""Largest value of the type in which models are trained."""


def is_infinite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which values are infinite in float32."""
    # Comparing smaller types would convert them to float64.
    is_small = values.dtype.itemsize <= np.dtype(np.float32).itemsize
    infinite: npt.NDArray[np.bool_] = np.isinf(values) if is_small else np.abs(values) > MAX_FLOAT32
    return infinite


def without_infinite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values with NaN in place of those that are infinite in float32."""
    infinite = is_infinite(values)
    return np.where(infinite, np.nan, values) if infinite.any() else values


def is_missing(values: npt.NDArray[Any], is_atom: npt.NDArray[np.bool_], *, per_atom: bool) -> npt.NDArray[np.bool_]:
    """Return which structures have no finite value of a label; ``is_atom`` (B, N) excludes padding."""
    finite = np.isfinite(values)
    if per_atom:
        finite &= is_atom.reshape(is_atom.shape + (1,) * (values.ndim - 2))
    missing: npt.NDArray[np.bool_] = ~finite.any(axis=tuple(range(1, finite.ndim)))
    return missing


class InfiniteValues:
    """The infinite values of the labels of a file, also those beyond float32, which are treated as missing."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, str]]] = {}

    def mask(self, block: dict[str, npt.NDArray[Any]], labels: Sequence[str], group: str, start: int) -> None:
        """Replace the infinite values in a block by NaN, and remember where they are.

        Args:
            block: Arrays by name; those with infinite values are replaced.
            labels: Names of the labels in it.
            group: Name of the group, for messages.
            start: Row of the first structure in the group.
        """
        for label in labels:
            infinite = is_infinite(block[label])
            if infinite.any():
                rows = np.flatnonzero(infinite.any(axis=tuple(range(1, infinite.ndim))))
                places = "; ".join(f"group {group}, row {start + row}" for row in rows[:3])
                self._found.setdefault(label, []).append((int(infinite.sum()), places))
                block[label] = np.where(infinite, np.nan, block[label])

    def describe(self) -> Iterator[str]:
        """Yield a line for each label with infinite values, with the first places."""
        for label, found in self._found.items():
            places = "; ".join(where for _, where in found[:3])
            count = sum(number for number, _ in found)
            are = "is" if count == 1 else "are"
            yield f"{counted(count, 'value')} of {label} {are} infinite and treated as missing ({places})"
