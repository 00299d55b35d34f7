"""Structures with predictions and labels as extended xyz, written by ASE."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from telemetry.plugins.optional_imports import optional_import

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["make_atoms", "require_ase", "write_xyz"]

Array = npt.NDArray[Any]


def require_ase() -> None:
    """Check that structures can be written.

    Raises:
        PackageNotInstalled: ASE is not installed.
    """
    with optional_import("evaluate -o (without --worst 0)", "'aimnet2mult[convert]'"):
        import ase.io  # noqa: F401 - is it installed?


def make_atoms(
    numbers: Array, coord: Array, *, per_atom: Mapping[str, Array], values: Mapping[str, Array], info: Mapping[str, Any]
) -> "Atoms":
    """Return a structure without padding; labels and predictions that are not finite are left out.

    Args:
        numbers: Atomic numbers, (N,), 0 for padding.
        coord: Coordinates in Å, (N, 3).
        per_atom: Labels and predictions of the atoms by name, (N,) or (N, components).
        values: Labels and predictions of the structure by name, () or (components,).
        info: Further entries of the comment line; those that are None are left out.
    """
    from ase import Atoms

    real = numbers != 0
    atoms = Atoms(numbers[real], coord[real])
    atoms.arrays |= {name: array[real] for name, array in per_atom.items() if np.isfinite(array[real]).all()}
    atoms.info |= {name: value for name, value in info.items() if value is not None}
    atoms.info |= {name: value for name, value in values.items() if np.isfinite(value).all()}
    return atoms


def write_xyz(path: Path, structures: Sequence["Atoms"]) -> None:
    """Write structures to a file.

    Raises:
        OSError: The file cannot be written.
    """
    from ase.io import write

    write(path, structures, format="extxyz")
