"""Checks of HDF5 files: names, shapes, atomic numbers and coordinates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aimnet2mult.errors import DataError
from aimnet2mult.quantities import LABELS

__all__ = ["MAX_ELEMENT", "OPTIONAL_INPUTS", "check_layout", "check_structures"]

MAX_ELEMENT = 63
"""Largest atomic number with a row in the embedding of aimnet."""

OPTIONAL_INPUTS: Mapping[str, float] = {"charge": 0.0, "mult": 1.0}
"""Inputs that a file may omit, with their defaults: total charge in e, and spin multiplicity."""


def check_layout(path: Path, labels: Sequence[str]) -> None:
    """Check the names and shapes in a file, without reading the arrays.

    Raises:
        DataError: The file cannot be read or has a different layout; the message has the path, the group and the key.
    """
    if not Path(path).is_file():
        raise DataError(f"no data set {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"the data set {path} is not an HDF5 file: {error}") from error
    with file:
        _check_groups(path, file)
        first = next(iter(file))
        for name, group in file.items():
            where = f"{path}, group {name!r}"
            _check_keys(where, group, first, set(file[first]), labels)
            _check_shapes(where, group, int(name), labels)


def check_structures(where: str, group: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check the elements and coordinates of a group.

    Args:
        where: File and group, for error messages.
        group: ``numbers`` (B, N), 0 for padding, and ``coord`` (B, N, 3) in Å.

    Raises:
        DataError: An element is not supported, a structure has no atoms, or a coordinate of an atom is not finite.
    """
    numbers = group["numbers"]
    is_atom = numbers != 0
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= MAX_ELEMENT:
        invalid = np.unique(numbers[(numbers < 0) | (numbers > MAX_ELEMENT)]).tolist()
        raise DataError(f"{where}: atomic numbers {invalid}; supported are 1 to {MAX_ELEMENT}, and 0 for padding")
    if not is_atom.any(axis=1).all():
        raise DataError(f"{where}: structure {int(np.argmin(is_atom.any(axis=1)))} has no atoms")
    valid = np.isfinite(group["coord"]).all(axis=-1) | ~is_atom
    if not valid.all():
        raise DataError(f"{where}: structure {int(np.argmin(valid.all(axis=1)))} has coordinates that are not finite")


def _check_groups(path: Path, file: h5py.File) -> None:
    if not len(file):
        raise DataError(f"the data set {path} has no groups")
    if len({name.lstrip("0") for name in file}) < len(file):
        raise DataError(f"{path}: several groups have the same number of atoms: {', '.join(file)}")
    for name, group in file.items():
        if not isinstance(group, h5py.Group) or not name.isdecimal():
            raise DataError(f"{path}: {name!r} is not a group named by its number of atoms, such as '007'")


def _check_keys(where: str, group: h5py.Group, first: str, first_keys: set[str], labels: Sequence[str]) -> None:
    """Check that required inputs exist, and that all groups have the same optional inputs and labels."""
    for key in ("coord", "numbers"):
        if key not in group:
            raise DataError(f"{where} has no {key!r}; it has {', '.join(sorted(group))}")
    for key in (*OPTIONAL_INPUTS, *labels):
        if (key in group) != (key in first_keys):
            has, lacks = (where, f"group {first!r}") if key in group else (f"group {first!r}", where)
            raise DataError(
                f"{has} has {key!r} and {lacks} does not; write it to every group (NaN for missing labels) or to none"
            )


def _check_shapes(where: str, group: h5py.Group, atoms: int, labels: Sequence[str]) -> None:
    structures = len(group["numbers"])
    shapes: dict[str, tuple[int, ...]] = {"numbers": (structures, atoms), "coord": (structures, atoms, 3)}
    shapes |= dict.fromkeys(OPTIONAL_INPUTS, (structures,))
    shapes |= {label: LABELS[label].shape(structures, atoms) for label in labels}
    for key, shape in shapes.items():
        if key in group and group[key].shape != shape:
            raise DataError(f"{where}: {key!r} has shape {group[key].shape}, expected {shape}")
