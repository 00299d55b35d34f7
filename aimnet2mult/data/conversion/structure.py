"""The arrays of a structure, in the types and units of the training."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.data.conversion.frames import Frame
from aimnet2mult.data.conversion.names import Names
from aimnet2mult.data.file_format import array_type
from aimnet2mult.data.members import MAX_ATOMS
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["Structure", "row_shape", "to_structure"]

Structure = Mapping[str, npt.NDArray[Any]]
"""Inputs and labels of a structure: ``coord`` (N, 3), ``numbers`` (N,), others as in a row of the HDF5 file."""


def to_structure(frame: Frame, names: Names, factors: Mapping[str, float]) -> Structure:
    """Return the arrays of a structure; ``factors`` converts them to the units of the training.

    Raises:
        DataError: Arrays are missing, or have wrong shapes or types; the message has a line for each.
    """
    if frame.problem:
        raise DataError(f"{frame.place}: {frame.problem}")
    try:
        resolved = names.resolve(name for name, value in frame.values.items() if value is not None)
        names.require(("coord", "numbers"), resolved)
    except DataError as error:
        raise DataError(f"{frame.place}: {error}") from None
    arrays = {key: np.asarray(frame.values[name]) for key, name in resolved.items()}
    if problems := list(_problems(arrays, resolved, names.labels)):
        raise DataError("\n".join(f"{frame.place}: {problem}" for problem in problems))
    atoms = len(arrays["numbers"])
    shapes = {key: row_shape(key, atoms, names.labels) for key in arrays}
    return {key: _convert(key, array, shapes[key], factors) for key, array in arrays.items()}


def _problems(arrays: Structure, resolved: Mapping[str, str], labels: Mapping[str, Label]) -> Iterator[str]:
    numbers = arrays["numbers"]
    if numbers.ndim != 1 or not 0 < len(numbers) <= MAX_ATOMS:
        yield f"{resolved['numbers']!r} has shape {numbers.shape}; expected 1 to {MAX_ATOMS:,} atoms"
        return
    for key, array in arrays.items():
        expected = row_shape(key, len(numbers), labels)
        if array.dtype.kind not in "iuf":
            value = f"is {array.item()!r}" if array.ndim == 0 else f"has type {array.dtype}"
            yield f"{resolved[key]!r} {value}; expected {'numbers' if expected else 'a number'}"
        # A value may be stored as an array of one value, and charges (N,) as a column (N, 1).
        elif array.shape not in (expected, (*expected, 1)):
            yield f"{resolved[key]!r} has shape {array.shape}, expected {expected}"
    if numbers.dtype.kind in "iuf":
        yield from _number_problems(numbers)


def _number_problems(numbers: npt.NDArray[Any]) -> Iterator[str]:
    """Describe the first invalid atomic number."""
    if not numbers.all():
        yield f"atom {int(np.argmin(numbers != 0))} has no element"
    elif not (valid := (numbers > 0) & (numbers <= MAX_ELEMENT) & (np.rint(numbers) == numbers)).all():
        atom = int(np.argmin(valid))
        yield f"atom {atom} has atomic number {numbers[atom]:g}; expected 1 to {MAX_ELEMENT}"


def row_shape(key: str, atoms: int, labels: Mapping[str, Label]) -> tuple[int, ...]:
    """Return the shape of an input or label of a structure with a number of atoms."""
    if key in labels:
        return labels[key].shape(1, atoms)[1:]
    return {"coord": (atoms, 3), "numbers": (atoms,)}.get(key, ())


def _convert(
    key: str, array: npt.NDArray[Any], shape: tuple[int, ...], factors: Mapping[str, float]
) -> npt.NDArray[Any]:
    array = array.reshape(shape)
    if key in factors:
        array = array.astype(np.float64) * factors[key]
    with np.errstate(over="ignore"):  # infinite labels are reported by the checks
        return array.astype(array_type(key))
