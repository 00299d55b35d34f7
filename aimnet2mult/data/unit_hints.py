"""Hints that energies and forces are in other units than eV and eV/Å, or have lost precision. Needs only NumPy.

Four rules, which stay silent in case of doubt:

1. **Total energies** are compared with those of free atoms. Of the structures that consist of elements up to Ne and
   contain one from B on, 90 % must agree with the same unit within 4 %. Binding energies are below 2 % of the total, so
   all-electron energies pass; formation energies, and those of pseudopotentials and semi-empirical methods, do not.
2. **The energy difference** between a structure and the most similar one with the same atoms is the work done against
   the forces, (F1 + F2)(x1 - x2) / 2, if one is a small distortion of the other. If the quotient of difference and work
   is nearly constant (70 % of the pairs within 20 % of the median), it is the quotient of the units.
3. **Typical forces** above 10 eV/Å (median component) do not occur in molecules, but are usual in kcal/mol/Å.
4. **The shortest distance** in a structure with H and C, N or O is nearly always a bond of H: 0.77 to 1.27 Å. If 90 %
   are in this range after conversion from another unit, the coordinates are in that unit.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.compositions import Compositions, unique_rows
from aimnet2mult.data.structures import min_distances

__all__ = [
    "ForceEvidence",
    "find_coord_unit",
    "find_energy_unit",
    "find_precision_loss",
    "shortest_distances",
    "unit_hints",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

# CODATA 2018, as in pint.
ENERGY_UNITS = {"eV": 1.0, "Hartree": 27.211386245988, "kcal/mol": 1 / 23.060547830619, "kJ/mol": 1 / 96.48533212331}
"""Units of energy in eV."""
BOHR = 0.529177210903
"""Bohr radius in Å."""
FORCE_UNITS = {
    "eV/Å": 1.0,
    "Hartree/Bohr": ENERGY_UNITS["Hartree"] / BOHR,
    "kcal/mol/Å": ENERGY_UNITS["kcal/mol"],
    "kJ/mol/Å": ENERGY_UNITS["kJ/mol"],
    "Hartree/Å": ENERGY_UNITS["Hartree"],
}
"""Units of force in eV/Å."""

TOTAL_TOLERANCE, TOTAL_SHARE = 0.04, 0.9
"""Rule 1: relative deviation of a total energy, and the share of structures that must be within it."""
LIGHTEST, HEAVIEST = 5, 10
"""Rule 1: atomic numbers between which the estimate is good and pseudopotentials are far from all-electron energies."""
MIN_PAIRS, QUOTIENT_TOLERANCE, QUOTIENT_SHARE = 20, 0.2, 0.7
"""Rule 2: number of pairs, relative deviation from the median, and the share of pairs that must be within it."""
MATCH = 0.8, 1.25
"""Rule 2: range of the quotient if energies and forces fit together."""
UNIT_TOLERANCE = 0.08
"""Rule 2: relative deviation from the quotient of two units; these differ by 17 % or more."""
MAX_BLOCKS, MAX_BLOCK = 20, 100
"""Rule 2: number of sets of structures with the same atoms in a group, and of structures in a set."""
MAX_COMPONENT = 10.0
"""Rule 3: median of the force components, in eV/Å."""
COORD_UNITS = {"bohr": BOHR, "pm": 0.01}
"""Rule 4: units of coordinates in Å; in nm, atoms would be too close."""
BOND, BOND_SHARE = (0.77, 1.27), 0.9
"""Rule 4: range of the length of a bond of H, in Å, and the share of structures whose shortest distance is in it."""
MAX_DISTANCES = 200
"""Rule 4: number of structures of a group of rows."""
CHUNK = 10_000
"""Number of structures processed at a time."""
MAX_SAMPLES, MAX_QUOTIENTS = 1_000_000, 100_000
"""Number of force components that are kept for rule 3, and of pairs for rule 2; files may be large."""
MAX_SPACING = 0.05
"""Spacing of stored energies, in kcal/mol, that does not matter in training."""


@dataclass
class ForceEvidence:
    """What the forces of a data set reveal, collected group by group."""

    sum_of_squares: float = 0.0
    components: int = 0
    samples: list[Floats] = field(default_factory=list)
    """Magnitudes of force components."""
    quotients: list[Floats] = field(default_factory=list)
    """Energy differences divided by the work of the forces."""

    def add(self, group: Mapping[str, Array]) -> None:
        """Add structures.

        Args:
            group: ``numbers`` (b, n), ``coord`` (b, n, 3), ``forces`` (b, n, 3), and optionally ``energy`` (b,),
                ``charge`` (b,) and ``mult`` (b,); NaN if missing. Reference energies may have been subtracted.
        """
        for start in range(0, len(group["numbers"]), CHUNK):
            rows = slice(start, start + CHUNK)
            is_atom = (group["numbers"][rows] != 0)[..., None]
            forces = group["forces"][rows]
            present = forces[np.isfinite(forces) & is_atom].astype(np.float64)
            self.sum_of_squares += float(present @ present)
            self.components += present.size
            if sum(map(len, self.samples)) < MAX_SAMPLES:
                self.samples.append(np.abs(present))
        if "energy" in group and sum(map(len, self.quotients)) < MAX_QUOTIENTS:
            self.quotients.extend(_quotients(group, rows) for rows in _blocks(group))

    @property
    def rms(self) -> float | None:
        """RMS of the force components; None without forces."""
        return (self.sum_of_squares / self.components) ** 0.5 if self.components else None

    @property
    def typical(self) -> float:
        """Median magnitude of a component; 0 without forces."""
        samples = np.concatenate([*self.samples, np.empty(0)])
        return float(np.median(samples)) if len(samples) else 0.0

    @property
    def quotient(self) -> float | None:
        """Energy difference divided by the work of the forces; None if this is not nearly constant."""
        quotients = np.concatenate([*self.quotients, np.empty(0)])
        if len(quotients) < MIN_PAIRS:
            return None
        middle = float(np.median(quotients))
        near = np.abs(quotients - middle) < QUOTIENT_TOLERANCE * abs(middle)
        return middle if np.mean(near) > QUOTIENT_SHARE else None


def find_energy_unit(compositions: Compositions, total: Floats) -> str | None:
    """Return the unit of total energies by the first rule of this module; None if it is unknown.

    Args:
        compositions: the structures with an energy.
        total: mean total energy of each composition, (M,).
    """
    elements = np.array(compositions.elements)
    usable = (compositions.counts[:, elements > HEAVIEST] == 0).all(axis=1)
    usable &= (compositions.counts[:, elements >= LIGHTEST] > 0).any(axis=1)
    if not usable.any():
        return None
    quotient = total[usable] / (compositions.counts[usable] @ _free_atom(elements))
    weight = compositions.structures[usable]
    for name, unit in ENERGY_UNITS.items():
        if weight[np.abs(quotient * unit - 1) < TOTAL_TOLERANCE].sum() > TOTAL_SHARE * weight.sum():
            return name
    return None


def shortest_distances(group: Mapping[str, Array]) -> Floats:
    """Return the shortest distances in the first structures with H and C, N or O, for `find_coord_unit`.

    Args:
        group: ``numbers`` (b, n), 0 for padding, and ``coord`` (b, n, 3).
    """
    numbers = group["numbers"][:MAX_DISTANCES]
    organic = (numbers == 1).any(axis=1) & np.isin(numbers, (6, 7, 8)).any(axis=1)
    coord = group["coord"][:MAX_DISTANCES].astype(np.float64)
    return min_distances(np.where(numbers[..., None] != 0, coord, np.nan)[organic])


def find_coord_unit(distances: Iterable[Floats]) -> str | None:
    """Return the unit of coordinates by the fourth rule of this module; None if it is Å or unknown."""
    known = np.concatenate([np.empty(0), *distances])
    for name, unit in COORD_UNITS.items():
        in_range = (known * unit > BOND[0]) & (known * unit < BOND[1])
        if len(known) >= MIN_PAIRS and np.mean(in_range) > BOND_SHARE:
            return name
    return None


def unit_hints(energy_unit: str | None, forces: ForceEvidence, coord_unit: str | None = None) -> list[str]:
    """Return warnings about units other than eV, eV/Å and Å, without the name of the data set.

    Args:
        energy_unit: result of `find_energy_unit`.
        forces: the forces of the same structures.
        coord_unit: result of `find_coord_unit`.
    """
    hints, force_unit, quotient = [], None, forces.quotient
    if coord_unit is not None and quotient is not None:
        # The work was computed with these coordinates.
        quotient /= COORD_UNITS[coord_unit]
    if quotient is not None and not (energy_unit in (None, "eV") and MATCH[0] < quotient < MATCH[1]):
        pairs = _fitting_units(quotient, energy_unit)
        if len(pairs) == 1:
            ((energy_unit, force_unit),) = pairs
        else:
            hints.append(
                f"energy differences are {quotient:.3g} times the work done against the forces; the forces must be the "
                "negative gradients of the energies: check their sign and data.units"
            )
    if force_unit is None and forces.typical > MAX_COMPONENT:
        force_unit = "kcal/mol/Å"
        if quotient is not None and not hints:
            # Energies that fit such forces are in the same unit.
            energy_unit = energy_unit or "kcal/mol"
    if energy_unit not in (None, "eV"):
        also = ", and check the unit of the forces" if forces.components and force_unit is None else ""
        hints.append(f"the energies look like {energy_unit} instead of eV; set data.units.energy={energy_unit}{also}")
    if force_unit not in (None, "eV/Å"):
        hints.append(f"the forces look like {force_unit} instead of eV/Å; set data.units.forces={force_unit}")
    if coord_unit is not None:
        hints.append(f"the coordinates look like {coord_unit} instead of Å; set data.units.coord={coord_unit}")
    return hints


def _fitting_units(quotient: float, energy_unit: str | None) -> list[tuple[str, str]]:
    """Return the pairs of units of energy and force with this quotient."""
    return [
        (energy, force)
        for energy in ENERGY_UNITS
        for force in FORCE_UNITS
        if energy_unit in (None, energy)
        and abs(quotient * ENERGY_UNITS[energy] / FORCE_UNITS[force] - 1) < UNIT_TOLERANCE
    ]


def find_precision_loss(energies: Iterable[Array], kcal_per_mol: float = 23.060547830619) -> str | None:
    """Return a warning if total energies are stored with too few digits, without the name of the file.

    Energies in a float64 array that are all numbers of a smaller type have been converted, and are as imprecise.

    Args:
        energies: the arrays in a file, as stored.
        kcal_per_mol: unit of the energies in kcal/mol; by default eV.
    """
    floating = [array for array in energies if np.issubdtype(array.dtype, np.floating)]
    finite = [array[np.isfinite(array)] for array in floating]
    values = np.concatenate([np.empty(0), *finite])
    for precision in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            is_exact = len(values) and (values == values.astype(precision)).all()
        if is_exact:
            typical = np.median(values)
            spacing = float(np.spacing(precision(abs(typical)))) * kcal_per_mol
            return _describe_precision(precision.__name__, typical, spacing) if spacing > MAX_SPACING else None
    return None


def _describe_precision(name: str, typical: float, spacing: float) -> str:
    return (
        f"the energies have only {name} precision: near {typical:,.0f}, successive values differ by {spacing:.2g} "
        "kcal/mol; store them as float64"
    )


def _free_atom(elements: npt.NDArray[np.integer[Any]]) -> Floats:
    """Return the total energies of neutral atoms in eV, accurate to 1 % from B on.

    Thomas-Fermi energy with the corrections of Scott and Schwinger: J. Schwinger, Phys. Rev. A 24, 2353 (1981).
    """
    z = elements.astype(np.float64)
    hartree = -0.768745 * z ** (7 / 3) + z**2 / 2 - 0.269900 * z ** (5 / 3)
    return hartree * ENERGY_UNITS["Hartree"]


def _blocks(group: Mapping[str, Array]) -> Iterator[npt.NDArray[np.int64]]:
    """Return the rows of the largest sets of structures with the same atoms, charge and multiplicity."""
    keys = [group[key] for key in ("charge", "mult") if key in group]
    _, index = unique_rows(np.column_stack([group["numbers"], *keys]))
    order = np.argsort(index, kind="stable")
    blocks = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
    for rows in sorted(blocks, key=len, reverse=True)[:MAX_BLOCKS]:
        if len(rows) > 1:
            yield rows[:MAX_BLOCK]


def _quotients(group: Mapping[str, Array], rows: npt.NDArray[np.int64]) -> Floats:
    """Return energy difference over work of each structure and the most similar one; the half with the most work."""
    is_atom = (group["numbers"][rows] != 0)[..., None]
    coord, forces = (
        np.where(is_atom, group[key][rows], 0.0).reshape(len(rows), -1).astype(np.float64)
        for key in ("coord", "forces")
    )
    squares = np.square(coord).sum(axis=1)
    distance = squares[:, None] + squares - 2 * coord @ coord.T
    np.fill_diagonal(distance, np.inf)
    other = distance.argmin(axis=1)
    work = -0.5 * ((forces + forces[other]) * (coord[other] - coord)).sum(axis=1)
    energy = np.asarray(group["energy"][rows], np.float64)
    difference = energy[other] - energy
    valid = np.isfinite(work) & np.isfinite(difference) & (work != 0)
    valid &= np.abs(work) >= np.median(np.abs(work[valid])) if valid.any() else False
    quotients: Floats = difference[valid] / work[valid]
    return quotients
