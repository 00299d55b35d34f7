"""Arrays of small size groups, as in HDF5 files."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Group = dict[str, Any]


def make_group(atoms: int, structures: int, *, labels: Sequence[str] = ("energy",), seed: int = 0) -> Group:
    """Return the arrays of a group; `charge` identifies the structures, starting at 1000 * atoms."""
    rng = np.random.default_rng([seed, atoms])
    shapes = {"energy": (), "forces": (atoms, 3), "charges": (atoms,), "spin_charges": (atoms,)}
    return {
        "coord": rng.normal(size=(structures, atoms, 3)).astype(np.float32),
        "numbers": rng.choice([1, 6, 8], size=(structures, atoms)).astype(np.int32),
        "charge": 1000 * atoms + np.arange(structures),
        "mult": np.ones(structures, np.int8),
        **{label: rng.normal(size=(structures, *shapes[label])) for label in labels},
    }
