"""Checks of the structures of a group: elements, coordinates, distances, charge and multiplicity."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import MAX_ELEMENT

__all__ = [
    "MAX_CHARGE",
    "MAX_COORD",
    "MAX_MULT",
    "MIN_DISTANCE",
    "Finding",
    "find_bad",
    "find_misfits",
    "min_distances",
]

MAX_MODEL_ROWS = 128
"""Rows in the tables of a model that supports all elements, as in the original trainer."""
MAX_COORD = 1e4
"""Largest absolute value of a coordinate, in Å."""
MAX_CHARGE = 100
"""Largest absolute value of a total charge, in e."""
MAX_MULT = 100
"""Largest spin multiplicity."""
MIN_DISTANCE = 0.3
"""Default of the smallest distance between two atoms, in Å."""
INTEGER_TOLERANCE = 1e-3
"""Largest deviation of a charge or multiplicity from an integer, for sums of partial charges."""

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


class Finding(NamedTuple):
    """A kind of problem, and the structures that have it."""

    kind: str
    rows: Mask
    """Whether a structure has the problem (B,)."""
    describe: Callable[[int], str]
    """Describes the problem of one structure, given by its index in ``rows``."""


def find_bad(block: Mapping[str, Array], min_distance: float, max_element: int = MAX_ELEMENT) -> Iterator[Finding]:
    """Find the structures that must not be trained on.

    Args:
        block: ``numbers`` (B, N), 0 for padding, and optionally ``coord`` (B, N, 3) in Å, ``charge`` (B,) and
            ``mult`` (B,).
        min_distance: Smallest distance between two atoms, in Å.
        max_element: Largest atomic number that the model supports.
    """
    numbers = block["numbers"]
    valid = (numbers >= 0) & (numbers <= max_element) & (numbers == np.rint(numbers))
    is_atom = numbers != 0
    yield Finding(
        "invalid atomic numbers",
        ~valid.all(axis=1),
        lambda row: _describe_number(numbers[row], valid[row], max_element),
    )
    yield Finding("structures without atoms", ~is_atom.any(axis=1), lambda _: "the structure has no atoms")
    if "coord" in block:
        yield from _find_bad_coordinates(block["coord"].astype(np.float64, copy=False), is_atom, min_distance)
    for key, low, high in (("charge", -MAX_CHARGE, MAX_CHARGE), ("mult", 1, MAX_MULT)):
        if key in block:
            yield _find_invalid_integers(key, block[key], low, high)


def find_misfits(block: Mapping[str, Array]) -> Mask:
    """Return which structures have a ``charge`` (B,) and ``mult`` (B,) that contradict the number of electrons."""
    electrons = count_electrons(block)
    mult = np.rint(block["mult"])
    misfits: Mask = ((electrons + mult) % 2 == 0) | (mult - 1 > electrons)
    return misfits


def count_electrons(block: Mapping[str, Array]) -> Array:
    """Return the number of electrons of each structure."""
    protons: Array = block["numbers"].sum(axis=1)
    return protons - np.rint(block["charge"]) if "charge" in block else protons


def _describe_number(numbers: Array, valid: Mask, max_element: int) -> str:
    atom = int(np.argmin(valid))
    number = numbers[atom]
    is_element = max_element < number <= MAX_ELEMENT and number == np.rint(number)
    hint = f"; for more, set max_z: {MAX_MODEL_ROWS} in the definition of the model" if is_element else ""
    return f"atom {atom} has atomic number {number:g}; supported are 1 to {max_element}, and 0 for padding{hint}"


def _find_bad_coordinates(coord: Array, is_atom: Mask, min_distance: float) -> Iterator[Finding]:
    size = np.abs(coord).max(axis=-1)
    not_finite = ~np.isfinite(size) & is_atom
    yield Finding(
        "coordinates that are not finite",
        not_finite.any(axis=1),
        lambda row: f"the coordinates of atom {int(np.argmax(not_finite[row]))} are not finite",
    )
    far = (size > MAX_COORD) & np.isfinite(size) & is_atom
    yield Finding(
        f"coordinates beyond {MAX_COORD:,.0f} Å",
        far.any(axis=1),
        lambda row: (
            f"atom {int(np.argmax(far[row]))} has a coordinate of {size[row, int(np.argmax(far[row]))]:.3g} Å, "
            f"beyond {MAX_COORD:,.0f} Å"
        ),
    )
    # NaN excludes an atom from the distances.
    atoms = np.where((is_atom & ~not_finite & ~far)[..., None], coord, np.nan)
    yield Finding(
        f"atoms closer than {min_distance:g} Å",
        min_distances(atoms) < min_distance,
        lambda row: _describe_pair(atoms[row], min_distance),
    )


def min_distances(coord: Array) -> npt.NDArray[np.float64]:
    """Return the smallest distance between two atoms of each structure: (B, N, 3) → (B,), in the same unit.

    Atoms with NaN are ignored; the result is infinite for fewer than two atoms. Takes memory for B * N distances.
    """
    best = np.full(len(coord), np.inf)
    for shift in range(1, coord.shape[1]):
        difference = coord[:, shift:] - coord[:, :-shift]
        squares = np.einsum("bnc,bnc->bn", difference, difference)
        best = np.fmin(best, np.fmin.reduce(squares, axis=1))
    distances: npt.NDArray[np.float64] = np.sqrt(best)
    return distances


def _describe_pair(coord: Array, min_distance: float) -> str:
    """Describe the closest pair of atoms of a structure (N, 3)."""
    first = second = 0
    best = np.inf
    for atom in range(len(coord) - 1):
        distances = np.linalg.norm(coord[atom + 1 :] - coord[atom], axis=1)
        distances[np.isnan(distances)] = np.inf
        if distances.min() < best:
            best = float(distances.min())
            first, second = atom, atom + 1 + int(distances.argmin())
    return f"atoms {first} and {second} are {best:.3g} Å apart, closer than {min_distance:g} Å (data.min_distance)"


def _find_invalid_integers(key: str, values: Array, low: int, high: int) -> Finding:
    with np.errstate(invalid="ignore"):  # inf - inf
        valid = (np.abs(values - np.rint(values)) <= INTEGER_TOLERANCE) & (values > low - 0.5) & (values < high + 0.5)
    return Finding(
        f"invalid {key}",
        ~valid,
        lambda row: f"{key} is {values[row]:g}; expected an integer from {low} to {high}",
    )
