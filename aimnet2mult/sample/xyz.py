"""The sample data as extended xyz, the format of most programs. Requires ASE."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["write_xyz"]

PER_ATOM = ("forces", "charges", "spin_charges")


def write_xyz(source: Path, path: Path) -> None:
    """Write the structures of an HDF5 file of the sample, without labels that are NaN.

    Raises:
        OSError: The file cannot be written, or exists.
    """
    from ase.io import write

    text = io.StringIO()
    write(text, list(_structures(source)), format="extxyz")
    with path.open("x", encoding="utf-8") as file:
        file.write(text.getvalue())


def _structures(source: Path) -> Iterator["Atoms"]:
    from ase import Atoms

    with h5py.File(source) as file:
        for group in file.values():
            arrays = {name: dataset[()] for name, dataset in group.items()}
            ids = arrays.pop("_id")
            for row in range(len(arrays["numbers"])):
                values = {name: array[row] for name, array in arrays.items() if np.isfinite(array[row]).all()}
                atoms = Atoms(values.pop("numbers"), values.pop("coord"))
                atoms.info["id"] = ids[row].decode()
                for name, value in values.items():
                    if name in PER_ATOM:
                        atoms.arrays[name] = value
                    else:
                        atoms.info[name] = value.item()
                yield atoms
