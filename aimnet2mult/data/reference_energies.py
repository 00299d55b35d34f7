"""Reference energies: the part of the energy that is a sum over atoms, subtracted before training.

``Sae`` (self-atomic energies) maps atomic numbers to energies in eV. All sums are computed in float64.
"""

import logging
import reprlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.config.yaml_text import dump, parse, read_text
from aimnet2mult.data.compositions import MAX_ELEMENT, Compositions, join_symbols
from aimnet2mult.data.places import counted
from aimnet2mult.errors import ConfigError, DataError
from telemetry.run_folder.regular_file import open_output

if TYPE_CHECKING:
    from aimnet2mult.data.file_content import FileContent

__all__ = [
    "Sae",
    "check_references",
    "fit_compositions",
    "fit_sae",
    "random_subset",
    "read_sae",
    "sae_to_yaml",
    "sum_by_fidelity",
    "sum_references",
    "unseparated_elements",
    "write_sae",
]

logger = logging.getLogger(__name__)

Sae = dict[int, float]
Floats = npt.NDArray[np.float64]

TRIM_PERCENTILES = (2, 98)
"""Residuals outside these percentiles are outliers, excluded from the second fit as in aimnet's calc_sae."""


def fit_sae(compositions: Compositions, energy: Floats, source: object = "data") -> Sae:
    """Fit one energy in eV per element by linear least squares.

    The trainer passes all structures of a training file, including
    those that are later split off for validation, because every composition is needed to separate the elements; a sum
    over atoms with one parameter per element cannot adapt to single structures. Separate validation files do not take
    part.

    Structures whose residual is outside the 2nd to 98th percentile are excluded, and the residuals of the others are
    fitted. If the remaining compositions separate fewer elements than all of them, the excluded compositions take part
    again with their median residuals: those with the smallest ones that separate the same elements, and all others up
    to twice as large. An outlier that has a composition to itself thus stays excluded.

    If the compositions of all structures do not separate some elements, such as H and O in water, the minimum-norm
    solution is used and a warning names the elements.

    Args:
        compositions: Compositions of the structures with an energy.
        energy: Their energies in eV (B,), all of them finite.
        source: File name for messages.

    Returns:
        The energies of the elements that occur.

    Raises:
        DataError: There are no structures.
    """
    if not len(energy):
        raise DataError(f"{source}: cannot fit reference energies: no structure has an energy")
    for elements in unseparated_elements(compositions):
        logger.warning(
            "%s: the compositions do not separate the reference energies of %s; only their sums are determined, and "
            "structures in which these elements have other proportions would get wrong energies",
            source,
            join_symbols(elements),
        )
    return fit_compositions(compositions, energy)


def random_subset(compositions: Compositions, number: int) -> npt.NDArray[np.bool_]:
    """Return which of B structures are in a random subset, always the same for the same data (B,).

    Structures with elements that would be missing are added, so that every element gets a reference energy.

    Args:
        compositions: The compositions of the structures.
        number: Number of structures; if there are fewer, all are returned.
    """
    chosen = np.zeros(len(compositions.index), np.bool_)
    chosen[np.random.default_rng(0).permutation(len(chosen))[:number]] = True
    found = compositions.counts[np.unique(compositions.index[chosen])].sum(axis=0) > 0
    has_missing: npt.NDArray[np.bool_] = compositions.counts[:, ~found].sum(axis=1) > 0
    return chosen | has_missing[compositions.index]


def fit_compositions(compositions: Compositions, energy: Floats) -> Sae:
    """Fit one energy per element to ``energy`` (B,), as described in `fit_sae`."""
    counts, index = compositions.counts, compositions.index
    first = _least_squares(counts, compositions.structures, compositions.mean(energy))
    residual = energy - (counts @ first)[index]
    low, high = np.percentile(residual, TRIM_PERCENTILES)
    inner = (residual > low) & (residual < high)
    number = np.bincount(index[inner], minlength=len(counts)).astype(np.float64)
    mean = np.bincount(index[inner], weights=residual[inner], minlength=len(counts)) / np.maximum(number, 1)
    median = compositions.median(residual)
    restored = _needed_for_rank(counts, number > 0, median)
    number[restored], mean[restored] = compositions.structures[restored], median[restored]
    # The minimum-norm solution for a residual is small; for total energies it could be off by hundreds of eV.
    fitted = first + _least_squares(counts, number, mean)
    return dict(zip(compositions.elements, fitted.tolist(), strict=True))


def unseparated_elements(compositions: Compositions) -> list[tuple[int, ...]]:
    """Return the groups of elements whose energies a fit cannot tell apart, by atomic number.

    Example: H and O if all structures are water clusters.
    """
    values, vectors = np.linalg.eigh(_gram(compositions.counts))
    null = vectors[:, values < values[-1] * len(values) * np.finfo(float).eps]
    # Elements that occur together in a null vector are linked, directly or through others.
    linked = ~np.isclose(null @ null.T, 0, atol=1e-6)
    groups: list[tuple[int, ...]] = []
    for position, z in enumerate(compositions.elements):
        if linked[position, position] and not any(z in group for group in groups):
            reached = np.linalg.matrix_power(linked.astype(float), len(linked))[position] > 0
            groups.append(tuple(np.array(compositions.elements)[reached].tolist()))
    return groups


def check_references(
    content: "FileContent", structures: npt.NDArray[np.bool_], sae: Mapping[int, float], source: object = "data"
) -> None:
    """Check that there are reference energies for all elements of the structures with an energy.

    Args:
        content: The content of the file.
        structures: Which of its structures are used (rows,).
        sae: The reference energies.
        source: File name for messages.

    Raises:
        DataError: ``sae`` has no energy for an element of a structure with an energy.
    """
    unknown = structures & np.isfinite(content.energy) & content.with_others(sae)
    problems = []
    for group, of_group in content.slices():
        rows = np.flatnonzero(unknown[of_group])
        if len(rows):
            present = content.counts[np.unique(content.composition[of_group][rows])].sum(axis=0)
            found = [z for z, number in zip(content.elements, present.tolist(), strict=True) if number and z not in sae]
            where = f"{counted(len(rows), 'structure')} of group {group.atoms:03d}"
            problems.append(f"no reference energy for {join_symbols(found)} in {where}")
    if problems:
        raise DataError(
            f"{source}: {'; '.join(problems)}; there are reference energies for {join_symbols(sorted(sae))}; leave "
            "these structures out, set their energies to NaN, or give all reference energies in data.sae.energy.files"
        )


def sum_references(numbers: npt.NDArray[np.integer[Any]], sae: Mapping[int, float]) -> Floats:
    """Return the sums (B,) of the reference energies of the atoms in ``numbers`` (B, N); 0 for unknown elements; eV."""
    table = np.zeros(max([numbers.max(initial=0), *sae]) + 1)
    table[list(sae)] = list(sae.values())
    sums: Floats = table[numbers].sum(axis=-1)
    return sums


def sum_by_fidelity(
    numbers: npt.NDArray[np.integer[Any]], fidelity: npt.NDArray[np.integer[Any]], saes: Sequence[Mapping[int, float]]
) -> Floats:
    """Return the sums (B,) of `sum_references`, with the reference energies of each structure's ``fidelity`` (B,)."""
    sums = np.zeros(len(numbers))
    for index in np.unique(fidelity).tolist():
        rows = fidelity == index
        sums[rows] = sum_references(numbers[rows], saes[index])
    return sums


def read_sae(path: Path) -> Sae:
    """Read a YAML file with lines ``atomic number: energy in eV``.

    Raises:
        DataError: The file cannot be read or contains anything else.
    """
    try:
        content = parse(read_text(Path(path)))
    except ConfigError as error:
        raise DataError(f"cannot read the reference energies {path}: {error}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected lines `atomic number: energy in eV`, found {reprlib.repr(content)}")
    return {_element(path, key): _energy(path, key, value) for key, value in content.items()}


def sae_to_yaml(sae: Mapping[int, float]) -> str:
    """Return the content of the file that ``write_sae`` writes."""
    return dump({z: float(sae[z]) for z in sorted(sae)})


def write_sae(path: Path, sae: Mapping[int, float]) -> None:
    """Write a file that ``read_sae`` reads back exactly; in place, since it may be a pipe or a link of the user.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        with open(path, "w", encoding="utf-8", opener=open_output) as file:
            file.write(sae_to_yaml(sae))
    except OSError as error:
        raise DataError(f"cannot write the reference energies to {path}: {error.strerror}") from error


def _least_squares(counts: Floats, number: Floats, mean: Floats) -> Floats:
    """Fit means of ``number`` (M,) structures each; equal to a fit of the structures."""
    weight = np.sqrt(number)
    return np.linalg.lstsq(counts * weight[:, None], mean * weight, rcond=None)[0].astype(np.float64, copy=False)


def _needed_for_rank(counts: Floats, kept: npt.NDArray[np.bool_], residual: Floats) -> npt.NDArray[np.int64]:
    """Return the compositions that must be added to ``kept`` to separate as many elements as all compositions do.

    These are the compositions with the smallest residuals (M,), and all others up to twice as large, which are no less
    plausible.
    """
    excluded = np.flatnonzero(~kept)
    excluded = excluded[np.argsort(np.abs(residual[excluded]), kind="stable")]
    inner = _gram(counts[kept])

    def rank(number: int) -> int:
        return int(np.linalg.matrix_rank(inner + _gram(counts[excluded[:number]]), hermitian=True))

    needed = np.abs(residual[excluded[: bisect_left(range(len(excluded)), rank(len(excluded)), key=rank)]])
    restored: npt.NDArray[np.int64] = excluded[np.abs(residual[excluded]) <= 2 * needed.max(initial=-1)]
    return restored


def _gram(counts: Floats) -> Floats:
    # Products of whole numbers are exact in float64.
    return counts.T @ counts


def _element(path: Path, key: object) -> int:
    if isinstance(key, bool) or not isinstance(key, int) or not 1 <= key <= MAX_ELEMENT:
        raise DataError(f"{path}: {reprlib.repr(key)} is not an atomic number")
    return key


def _energy(path: Path, key: object, value: object) -> float:
    # YAML 1.1 parses 1e-3, without a decimal point, as a string.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            if np.isfinite(float(value)):
                return float(value)
    raise DataError(f"{path}: the energy of element {key} is {reprlib.repr(value)}; expected a finite number in eV")
