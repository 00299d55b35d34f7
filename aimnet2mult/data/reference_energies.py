"""Reference energies of atoms: the linear part of the energy, taken off before learning.

A set of reference energies (``Sae``) gives one energy in eV for each atomic number. The energy that
is learnt is what is left after subtracting those of a structure's atoms; all sums are in float64.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import yaml

from aimnet2mult.errors import DataError
from telemetry.run_folder.atomic_write import atomic_write

if TYPE_CHECKING:
    from aimnet.data import SizeGroupedDataset

__all__ = ["Sae", "apply_sae", "elements", "fit_sae", "read_sae", "write_sae"]

Sae = dict[int, float]
Floats = npt.NDArray[np.float64]

# As in aimnet's calc_sae: energies outside of these are outliers and do not count in the second fit.
TRIM_PERCENTILES = (2, 98)


def elements(dataset: "SizeGroupedDataset") -> list[int]:
    """Return the atomic numbers that occur in ``numbers``, ascending, without the 0 of padding."""
    present = np.unique(np.concatenate([np.unique(group["numbers"]) for group in dataset.groups]))
    return [int(z) for z in present if z != 0]


def fit_sae(dataset: "SizeGroupedDataset") -> Sae:
    """Fit one energy an element to ``energy`` by linear least squares; eV, float64.

    Structures whose energy is missing (not finite) do not count. Then those outside of the 2nd to
    98th percentile of the remaining energy are left out, and what is left is fitted again. An
    element that only those had keeps its value of the first fit. Where the compositions do not
    determine the energies, the solution of least norm is taken.

    Raises ``DataError`` if an element occurs only in structures without energy.
    """
    present = elements(dataset)
    counts = np.concatenate([_counts(group["numbers"], present) for group in dataset.groups])
    energy = np.concatenate([np.asarray(group["energy"], np.float64) for group in dataset.groups])
    known = np.isfinite(energy)
    counts, energy = counts[known], energy[known]
    unknown = [z for z, n in zip(present, counts.sum(axis=0), strict=True) if n == 0]
    if unknown:
        raise DataError(f"no structure with an energy holds the elements {unknown}: nothing to fit them to")

    first = _least_squares(counts, energy)
    rest = energy - counts @ first
    low, high = np.percentile(rest, TRIM_PERCENTILES)
    inner = (rest > low) & (rest < high)
    second = _least_squares(counts[inner], energy[inner])
    covered = counts[inner].sum(axis=0) > 0
    return dict(zip(present, np.where(covered, second, first).tolist(), strict=True))


def apply_sae(dataset: "SizeGroupedDataset", sae: Mapping[int, float]) -> None:
    """Subtract the reference energies of its atoms from each ``energy``, in place; float64.

    Raises ``DataError`` if ``sae`` lacks an element that occurs.
    """
    missing = [z for z in elements(dataset) if z not in sae]
    if missing:
        raise DataError(f"no reference energy for the elements {missing}; given are those of {sorted(sae)}")
    # aimnet sums over all of a row; the padding's 0 has to add nothing.
    dataset.apply_peratom_shift("energy", "energy", sap_dict={**sae, 0: 0.0})


def read_sae(path: Path) -> Sae:
    """Read a YAML file of lines ``atomic number: energy in eV``.

    Raises ``DataError`` if there is no such file, or if it holds anything else.
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


def write_sae(path: Path, sae: Mapping[int, float]) -> None:
    """Write what ``read_sae`` reads back exactly. Raises ``DataError`` where it cannot be written."""
    text = yaml.safe_dump({z: float(sae[z]) for z in sorted(sae)})
    try:
        atomic_write(Path(path), text.encode(), mode=0o666)
    except OSError as error:
        raise DataError(f"cannot write the reference energies to {path}: {error.strerror}") from error


def _counts(numbers: npt.NDArray[np.integer], present: list[int]) -> Floats:
    """Count each structure's atoms of each element: (B, N) → (B, elements)."""
    columns = [(numbers == z).sum(axis=1) for z in present]
    return np.stack(columns, axis=1).astype(np.float64)


def _least_squares(counts: Floats, energy: Floats) -> Floats:
    return np.linalg.lstsq(counts, energy, rcond=None)[0].astype(np.float64, copy=False)


def _element(path: Path, key: object) -> int:
    if isinstance(key, bool) or not isinstance(key, int) or key < 1:
        raise DataError(f"{path}: {key!r} is not an atomic number")
    return key


def _energy(path: Path, key: object, value: object) -> float:
    # YAML 1.1 takes 1e-3, without a point, for a string; the numbers of a person are numbers.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            if np.isfinite(float(value)):
                return float(value)
    raise DataError(f"{path}: the energy of element {key} is {value!r}, not a finite number in eV")
