"""Reference energies: the part of the energy that is a sum over atoms, subtracted before training.

``Sae`` (self-atomic energies) maps atomic numbers to energies in eV. All sums are computed in float64.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import yaml

from aimnet2mult.errors import DataError

if TYPE_CHECKING:
    from aimnet.data import SizeGroupedDataset

__all__ = ["Sae", "apply_sae", "elements", "fit_sae", "read_sae", "sae_to_yaml", "write_sae"]

Sae = dict[int, float]
Floats = npt.NDArray[np.float64]

TRIM_PERCENTILES = (2, 98)
"""Residuals outside these percentiles are outliers, excluded from the second fit as in aimnet's calc_sae."""


def elements(dataset: "SizeGroupedDataset") -> list[int]:
    """Return the atomic numbers in a data set, in ascending order, without padding (0)."""
    present = np.unique(np.concatenate([np.unique(group["numbers"]) for group in dataset.groups]))
    return [int(z) for z in present if z != 0]


def fit_sae(dataset: "SizeGroupedDataset") -> Sae:
    """Fit one energy in eV per element to ``energy`` by linear least squares.

    Structures with a missing (non-finite) energy are ignored. Structures whose residual is outside the 2nd to 98th
    percentile are then excluded, and the rest is fitted again; an element that occurs only in excluded structures keeps
    its value from the first fit. If the compositions do not determine the energies, the minimum-norm solution is used.

    Raises:
        DataError: An element occurs only in structures without energy.
    """
    present = elements(dataset)
    counts = np.concatenate([_counts(group["numbers"], present) for group in dataset.groups])
    energy = np.concatenate([np.asarray(group["energy"], np.float64) for group in dataset.groups])
    known = np.isfinite(energy)
    counts, energy = counts[known], energy[known]
    unknown = [z for z, n in zip(present, counts.sum(axis=0), strict=True) if n == 0]
    if unknown:
        raise DataError(f"cannot fit reference energies: no structure with an energy contains the elements {unknown}")

    first = _least_squares(counts, energy)
    residual = energy - counts @ first
    low, high = np.percentile(residual, TRIM_PERCENTILES)
    inner = (residual > low) & (residual < high)
    second = _least_squares(counts[inner], energy[inner])
    covered = counts[inner].sum(axis=0) > 0
    return dict(zip(present, np.where(covered, second, first).tolist(), strict=True))


def apply_sae(dataset: "SizeGroupedDataset", sae: Mapping[int, float]) -> None:
    """Subtract from each ``energy`` (B,) the reference energies of the atoms in ``numbers`` (B, N), in place; eV.

    Raises:
        DataError: ``sae`` has no energy for an element in the data set.
    """
    missing = [z for z in elements(dataset) if z not in sae]
    if missing:
        raise DataError(f"no reference energy for the elements {missing}; there are energies for {sorted(sae)}")
    # aimnet sums over whole rows, so padding (0) needs an energy too.
    dataset.apply_peratom_shift("energy", "energy", sap_dict={**sae, 0: 0.0})


def read_sae(path: Path) -> Sae:
    """Read a YAML file with lines ``atomic number: energy in eV``.

    Raises:
        DataError: The file cannot be read or contains anything else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the reference energies {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"the reference energies {path} are not YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected lines `atomic number: energy in eV`, found {content!r:.60}")
    return {_element(path, key): _energy(path, key, value) for key, value in content.items()}


def sae_to_yaml(sae: Mapping[int, float]) -> str:
    """Return the content of the file that ``write_sae`` writes."""
    text: str = yaml.safe_dump({z: float(sae[z]) for z in sorted(sae)})
    return text


def write_sae(path: Path, sae: Mapping[int, float]) -> None:
    """Write a file that ``read_sae`` reads back exactly; in place, since it may be a pipe or a link.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        Path(path).write_text(sae_to_yaml(sae), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write the reference energies to {path}: {error.strerror}") from error


def _counts(numbers: npt.NDArray[np.integer], present: list[int]) -> Floats:
    """Return the number of atoms of each element in each structure: (B, N) → (B, elements)."""
    columns = [(numbers == z).sum(axis=1) for z in present]
    return np.stack(columns, axis=1).astype(np.float64)


def _least_squares(counts: Floats, energy: Floats) -> Floats:
    return np.linalg.lstsq(counts, energy, rcond=None)[0].astype(np.float64, copy=False)


def _element(path: Path, key: object) -> int:
    if isinstance(key, bool) or not isinstance(key, int) or key < 1:
        raise DataError(f"{path}: {key!r} is not an atomic number")
    return key


def _energy(path: Path, key: object, value: object) -> float:
    # YAML 1.1 parses 1e-3, without a decimal point, as a string.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            if np.isfinite(float(value)):
                return float(value)
    raise DataError(f"{path}: the energy of element {key} is {value!r}; expected a finite number in eV")
