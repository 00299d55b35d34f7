"""Hashes of structures, to find duplicates in bounded memory."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.file_format import OPTIONAL_INPUTS

__all__ = ["find_duplicates", "hash_structures"]

Hashes = npt.NDArray[np.uint64]

RESOLUTION = 1e-3
"""Coordinates are rounded to multiples of this, in Å."""


def hash_structures(block: Mapping[str, npt.NDArray[Any]]) -> Hashes:
    """Return a 64-bit hash of ``numbers``, rounded ``coord``, ``charge`` and ``mult`` of each structure.

    The hash is multilinear modulo 2⁶⁴ with fixed random coefficients; it does not depend on padding at the end. Takes
    valid structures only.
    """
    numbers = block["numbers"].astype(np.int64)
    # In float16, large coordinates would overflow.
    coord = np.where(numbers[..., None] != 0, block["coord"], 0).astype(np.float64, copy=False)
    steps = np.rint(coord * (1 / RESOLUTION)).astype(np.int64)
    # Those of the first atoms are the same for every number of atoms.
    coefficients = _random(0, 4 * numbers.shape[1]).reshape(-1, 4)
    total: Hashes = np.einsum("bnc,nc->b", steps.view(np.uint64), coefficients[:, :3])
    total += np.einsum("bn,n->b", numbers.view(np.uint64), coefficients[:, 3])
    for (key, default), coefficient in zip(OPTIONAL_INPUTS.items(), _random(1, len(OPTIONAL_INPUTS)), strict=True):
        values = np.rint(block[key]) if key in block else np.full(len(numbers), default)
        total += values.astype(np.int64).view(np.uint64) * coefficient
    return total


def find_duplicates(hashes: Hashes) -> npt.NDArray[np.int64]:
    """Return pairs (P, 2) of indices: each repetition, preceded by the first structure with the same hash."""
    order = np.argsort(hashes, kind="stable")
    repeats = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    is_first = np.ones(len(order), np.bool_)
    is_first[repeats] = False
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    return np.stack([order[first[repeats]], order[repeats]], axis=1)


@cache
def _random(seed: int, count: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, size=count, dtype=np.uint64)
