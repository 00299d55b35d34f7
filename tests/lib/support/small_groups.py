"""Arrays of small size groups, as in HDF5 files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Group = dict[str, Any]


def make_group(atoms: int, structures: int, *, labels: Sequence[str] = ("energy",), seed: int = 0) -> Group:
    """Return the arrays of a group; `identities` returns the numbers of its structures, from 100 * atoms."""
    rng = np.random.default_rng([seed, atoms])
    shapes = {"energy": (), "forces": (atoms, 3), "charges": (atoms,), "spin_charges": (atoms,)}
    coord = rng.normal(scale=0.1, size=(structures, atoms, 3)).astype(np.float32)
    coord[:, :, 1] += np.arange(atoms)
    coord[:, 0, 0] = 100 * atoms + np.arange(structures)
    return {
        "coord": coord,
        "numbers": rng.choice([1, 6, 8], size=(structures, atoms)).astype(np.int32),
        "charge": np.zeros(structures, np.int8),
        **{label: rng.normal(size=(structures, *shapes[label])) for label in labels},
    }


def identities(group: Mapping[str, Any]) -> list[int]:
    """Return the number that `make_group` gave each structure, as a coordinate that nothing may change."""
    return [int(x) for x in group["coord"][:, 0, 0]]
