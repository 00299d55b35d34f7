#!/usr/bin/env python3
"""Generate the sample data: small molecules at two levels of semi-empirical quantum chemistry.

`gfn1.h5` (fidelity 0, GFN1-xTB) contains energies, forces and charges. `spgfn2.h5` (fidelity 1,
spin-polarized GFN2-xTB) also contains spin charges, and NaN instead of forces for a fraction of its
structures, like single-point calculations. Every fifth species is in fidelity 0 only.

Species are the molecules of `ase.collections.g2` and radicals, radical cations and anions derived
from them, relaxed with fidelity 1. Their structures are displaced from the minimum according to a
random temperature, in the harmonic approximation. The default arguments reproduce the files of the
package byte for byte.

Units: coordinates Å, energies eV, forces eV/Å, charges and spin charges e. Finished species are
cached in OUT/cache, so an interrupted run can be continued. Nothing is downloaded.
"""

import os

# Set before NumPy starts its threads; the molecules are too small for more than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pool
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import click
import h5py
import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.collections import g2
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from ase.optimize import BFGS
from ase.units import Bohr, Hartree, kB
from tblite.interface import Calculator as TightBinding
from tblite.library import get_version
from tqdm import tqdm

Floats = npt.NDArray[np.float64]
Labels = dict[str, Any]

ELEMENTS = {atomic_numbers[symbol] for symbol in ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl")}
MIN_ATOMS, MAX_ATOMS = 3, 14
MAX_CATION_ATOMS = 10
# In eV/Å²/u, about 285 cm⁻¹; used instead for softer modes.
MIN_STIFFNESS = 0.3
TEMPERATURES = (100.0, 1000.0)  # K
# In eV per atom, relative to the relaxed structure.
ENERGY_RANGE = (-0.05, 0.15)
MAX_BOND, MIN_DISTANCE = 1.25, 0.6  # times the sum of covalent radii
MAX_TRIES = 20  # per requested structure
FIRST_ONLY_EVERY = 5  # every fifth species is in fidelity 0 only
VERSION = 3


@dataclass(frozen=True)
class Method:
    """A level of theory and the name of its file."""

    name: str
    hamiltonian: str
    spin: bool

    @property
    def text(self) -> str:
        return self.hamiltonian + (" + spin-polarization" if self.spin else "")


METHODS = (Method("gfn1", "GFN1-xTB", spin=False), Method("spgfn2", "GFN2-xTB", spin=True))
REFERENCE = METHODS[1]


@dataclass(frozen=True)
class Species:
    name: str
    atoms: Atoms
    charge: int
    mult: int

    def label(self, positions: Floats, method: Method = REFERENCE) -> Labels:
        """Return the labels of a structure: energy (), forces (N, 3), charges (N,) and, with spin, spin_charges (N,).

        Raises:
            RuntimeError: the self-consistent field does not converge.
        """
        unpaired = self.mult - 1
        polarized = method.spin and unpaired > 0
        numbers = self.atoms.numbers
        tb = TightBinding(method.hamiltonian, numbers, positions / Bohr, self.charge, unpaired)
        for option, value in (("verbosity", 0), ("accuracy", 0.1), ("max-iter", 500), ("save-integrals", 1)):
            tb.set(option, value)
        if polarized:
            tb.add("spin-polarization", 1.0)
        result = tb.singlepoint()
        labels: Labels = {
            "energy": float(result["energy"]) * Hartree,
            "forces": -np.asarray(result["gradient"]) * Hartree / Bohr,
            "charges": np.asarray(result["charges"], float),
        }
        if method.spin:
            spins = np.zeros(len(numbers))
            if polarized:
                # Mulliken: the diagonal of (P_alpha - P_beta) S, summed over the orbitals of an atom.
                density, overlap = np.asarray(result["density-matrix"]), np.asarray(result["overlap-matrix"])
                populations = np.einsum("ij,ji->i", density[0] - density[1], overlap)
                atom_of_orbital = np.asarray(tb.get("shell-map"))[np.asarray(tb.get("orbital-map"))]
                np.add.at(spins, atom_of_orbital, populations)
            labels["spin_charges"] = spins
        return labels


@dataclass(frozen=True)
class Job:
    """Everything that determines the structures of one species."""

    index: int
    species: Species
    wanted: tuple[int, int]
    """Requested number of structures, for each method."""
    seed: int
    nan_share: float
    cache: Path

    @property
    def path(self) -> Path:
        return self.cache / f"{self.index:04d}.npz"

    @property
    def key(self) -> str:
        return json.dumps([VERSION, self.species.name, self.wanted, self.seed, self.nan_share])

    def is_done(self) -> bool:
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                return str(stored["_key"]) == self.key
        except (OSError, ValueError, KeyError, BadZipFile):
            return False  # missing, or incomplete after an interruption

    def save(self, arrays: Mapping[str, Any]) -> None:
        temporary = self.path.with_suffix(".tmp.npz")
        np.savez(temporary, **{"_key": np.array(self.key), **arrays})
        temporary.replace(self.path)


@dataclass
class Outcome:
    """The result of a job."""

    species: str
    status: str
    counts: Counter[str] = field(default_factory=Counter)


class SpeciesCalculator(Calculator):  # type: ignore[misc]  # ase has no types
    """The ase calculator of a species, for the optimizer."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, species: Species) -> None:
        super().__init__()
        self.species = species

    def calculate(
        self, atoms: Atoms = None, properties: Iterable[str] = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        labels = self.species.label(atoms.positions)
        self.results = {"energy": labels["energy"], "forces": labels["forces"]}


def bonds(atoms: Atoms) -> npt.NDArray[np.bool_]:
    """Return a mask of bonded pairs of atoms, shape (N, N)."""
    radii = covalent_radii[atoms.numbers]
    near = atoms.get_all_distances() < MAX_BOND * (radii[:, None] + radii[None])
    return np.asarray(near & ~np.eye(len(atoms), dtype=bool))


def is_connected(atoms: Atoms) -> bool:
    steps = bonds(atoms).astype(int) + np.eye(len(atoms), dtype=int)
    return bool((np.linalg.matrix_power(steps, len(atoms)) > 0).all())


def all_species() -> Iterator[Species]:
    """Yield the G2 molecules, each followed by the species derived from it."""
    for name in sorted(g2.names):
        found = molecule(name)
        if not set(found.numbers) <= ELEMENTS or not MIN_ATOMS <= len(found) <= MAX_ATOMS:
            continue
        mult = round(abs(found.get_initial_magnetic_moments().sum())) + 1
        parent = Species(name, Atoms(found.numbers, found.positions), 0, mult)
        yield parent
        if mult == 1:
            yield from derive_species(parent)


def derive_species(parent: Species) -> Iterator[Species]:
    """Yield the radical cation, and the radicals and anions that result from removing one hydrogen of each kind."""
    atoms = parent.atoms
    if len(atoms) <= MAX_CATION_ATOMS:
        yield Species(parent.name + "+", atoms.copy(), 1, 2)
    bonded = bonds(atoms)
    seen = set()
    for hydrogen in np.flatnonzero(atoms.numbers == 1):
        if len(atoms) - 1 < MIN_ATOMS or bonded[hydrogen].sum() != 1:
            continue
        neighbor = int(np.flatnonzero(bonded[hydrogen])[0])
        kind = (int(atoms.numbers[neighbor]), tuple(sorted(atoms.numbers[bonded[neighbor]].tolist())))
        if kind in seen:
            continue
        seen.add(kind)
        rest = atoms[[i for i in range(len(atoms)) if i != hydrogen]]
        symbol = atoms.symbols[neighbor]
        name = f"{parent.name}-H({symbol}{neighbor})"
        yield Species(name, rest, 0, 2)
        if symbol in ("N", "O", "S"):
            yield Species(name + "-", rest.copy(), -1, 1)


def relax(species: Species) -> Species:
    """Return the species at its minimum, starting from a structure without any symmetry."""
    atoms = species.atoms.copy()
    atoms.positions += np.random.default_rng(7).normal(0, 0.01, atoms.positions.shape)
    atoms.calc = SpeciesCalculator(species)
    BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.02, steps=200)
    atoms.positions -= atoms.get_center_of_mass()
    return Species(species.name, atoms, species.charge, species.mult)


def hessian(species: Species, step: float = 0.01) -> Floats:
    """Return the second derivatives in eV/Å², shape (3N, 3N), from central differences of forces."""
    size = 3 * len(species.atoms)
    second = np.zeros((size, size))
    for i in range(size):
        forces = []
        for sign in (1, -1):
            moved = species.atoms.positions.copy()
            moved.flat[i] += sign * step
            forces.append(species.label(moved)["forces"].ravel())
        second[i] = -(forces[0] - forces[1]) / (2 * step)
    return (second + second.T) / 2


@dataclass(frozen=True)
class Minimum:
    """A relaxed species and the distribution of its displacements.

    Displacements in Å are ``weights * (root @ z) * sqrt(kT)`` with standard normal ``z``. ``root`` (3N, 3N) is the
    symmetric square root of the mass-weighted covariance without translations and rotations, so the result depends
    neither on the signs of eigenvectors nor on the basis of a degenerate mode. ``weights`` (3N,) removes the mass
    weighting.
    """

    species: Species
    energy: float
    weights: Floats
    root: Floats

    def draw_coordinates(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return coordinates (N, 3) at a random temperature, rounded to 1e-4 Å."""
        temperature = rng.uniform(*TEMPERATURES)
        moved = self.weights * (self.root @ rng.standard_normal(self.weights.size))
        exact = self.species.atoms.positions + moved.reshape(-1, 3) * np.sqrt(kB * temperature)
        return np.round(exact, 4).astype(np.float32)

    def is_near(self, energy: float) -> bool:
        low, high = ENERGY_RANGE
        return bool(low <= (energy - self.energy) / len(self.species.atoms) <= high)


def displacement_map(species: Species) -> tuple[Floats, Floats]:
    """Return ``weights`` and ``root`` of a ``Minimum``."""
    atoms = species.atoms
    size = 3 * len(atoms)
    masses = atomic_masses[atoms.numbers]
    weights = np.repeat(masses, 3) ** -0.5
    centered = atoms.positions - np.average(atoms.positions, axis=0, weights=masses)
    rigid = np.zeros((size, 6))
    for axis in range(3):
        unit = np.zeros(3)
        unit[axis] = 1
        rigid[:, axis] = (np.sqrt(masses)[:, None] * unit).ravel()
        rigid[:, 3 + axis] = (np.sqrt(masses)[:, None] * np.cross(centered, unit)).ravel()
    basis, values, _ = np.linalg.svd(rigid, full_matrices=False)
    basis = basis[:, values > 1e-6 * values[0]]
    projector = np.eye(size) - basis @ basis.T
    weighted = weights[:, None] * hessian(species) * weights[None]
    stiffness, modes = np.linalg.eigh(projector @ weighted @ projector)
    root = projector @ (modes * np.maximum(np.abs(stiffness), MIN_STIFFNESS) ** -0.5) @ modes.T @ projector
    return weights, root


def make_species(job: Job) -> Outcome:
    """Relax a species and write its labeled structures to the cache."""
    outcome = Outcome(job.species.name, "ok")
    if job.is_done():
        outcome.status = "cached"
        return outcome
    try:
        species = relax(job.species)
        energy = species.label(species.atoms.positions)["energy"]
        if not is_connected(species.atoms):
            job.save({})
            outcome.status = "dissociated"
            return outcome
        minimum = Minimum(species, energy, *displacement_map(species))
    except RuntimeError as error:
        job.save({})
        outcome.status = f"failed: {error}"
        return outcome
    arrays: dict[str, Any] = {"numbers": species.atoms.numbers, "charge": species.charge, "mult": species.mult}
    for fidelity in range(len(METHODS)):
        rows = sample(job, minimum, fidelity, outcome.counts)
        for key in rows[0] if rows else ():
            arrays[f"{fidelity}/{key}"] = np.stack([row[key] for row in rows])
    job.save(arrays)
    return outcome


def sample(job: Job, minimum: Minimum, fidelity: int, counts: Counter[str]) -> list[Labels]:
    """Return labeled structures of one fidelity: the requested number, or fewer if too many are rejected."""
    species, method = minimum.species, METHODS[fidelity]
    radii = covalent_radii[species.atoms.numbers]
    nearest = MIN_DISTANCE * (radii[:, None] + radii[None])
    np.fill_diagonal(nearest, 0)
    rng = np.random.default_rng([job.seed, zlib.crc32(species.name.encode()), fidelity])
    rows: list[Labels] = []
    for _ in range(MAX_TRIES * job.wanted[fidelity]):
        if len(rows) == job.wanted[fidelity]:
            break
        coord = minimum.draw_coordinates(rng)
        with_forces = rng.uniform() >= job.nan_share
        if (np.linalg.norm(coord[:, None] - coord[None], axis=-1) < nearest).any():
            counts["rejected"] += 1
            continue
        try:
            # Label the coordinates as stored, in float32.
            labels = species.label(coord.astype(float), method)
            reference = labels if method is REFERENCE else species.label(coord.astype(float))
        except RuntimeError:
            counts["unconverged"] += 1
            continue
        if not minimum.is_near(reference["energy"]) or not np.isfinite(labels["forces"]).all():
            counts["rejected"] += 1
            continue
        if method.spin and not with_forces:
            labels["forces"] = np.full_like(labels["forces"], np.nan)
        rows.append({"coord": coord, **labels})
    counts["structures"] += len(rows)
    return rows


def round_mantissa(values: Floats, bits: int) -> npt.NDArray[np.float32]:
    """Return the values as float32 with ``bits`` mantissa bits; further bits are noise that does not compress."""
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    drop = 23 - bits
    raw = (raw + (1 << (drop - 1))) & ~np.uint64((1 << drop) - 1)
    rounded = raw.astype(np.uint32).view(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), rounded).astype(np.float32)


def columns(job: Job, fidelity: int, stored: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a species as written to the file."""
    count = len(stored[f"{fidelity}/coord"])
    names = [f"{job.species.name}/{fidelity}/{i}".encode() for i in range(count)]
    arrays = {
        "_id": np.array(names),
        "numbers": np.repeat(stored["numbers"][None], count, 0).astype(np.int32),
        "charge": np.full(count, int(stored["charge"]), np.int8),
        "mult": np.full(count, int(stored["mult"]), np.int8),
        "coord": stored[f"{fidelity}/coord"].astype(np.float32),
        "energy": np.round(stored[f"{fidelity}/energy"], 6),
        "forces": round_mantissa(stored[f"{fidelity}/forces"], 16),
        "charges": np.round(stored[f"{fidelity}/charges"], 5).astype(np.float32),
    }
    if METHODS[fidelity].spin:
        arrays["spin_charges"] = np.round(stored[f"{fidelity}/spin_charges"], 5).astype(np.float32)
    return arrays


def write(out: Path, jobs: Iterable[Job], seed: int, fidelity: int) -> None:
    """Collect the structures of one fidelity from the cache and write its file."""
    method = METHODS[fidelity]
    groups: dict[int, list[dict[str, npt.NDArray[Any]]]] = {}
    for job in jobs:
        with np.load(job.path, allow_pickle=False) as stored:
            if f"{fidelity}/coord" in stored:
                groups.setdefault(len(stored["numbers"]), []).append(columns(job, fidelity, stored))
    path = out / f"{method.name}.h5"
    temporary = path.with_suffix(".tmp")
    with h5py.File(temporary, "w") as file:
        file.attrs.update(
            method=method.text,
            fidelity=fidelity,
            seed=seed,
            generator=f"make_dataset.py v{VERSION}",
            tblite=".".join(map(str, get_version())),
            units="coord A; energy eV; forces eV/A; charges e; spin_charges e",
            missing="NaN",
        )
        for size in sorted(groups):
            write_group(file.create_group(f"{size:03d}"), groups[size], np.random.default_rng([seed, size, fidelity]))
    temporary.replace(path)
    count = sum(len(part["energy"]) for parts in groups.values() for part in parts)
    click.echo(f"{path}: {count} structures, {path.stat().st_size / 1e6:.2f} MB")


def write_group(group: h5py.Group, parts: list[dict[str, npt.NDArray[Any]]], rng: np.random.Generator) -> None:
    """Write the arrays of one molecule size in random order, without timestamps so that the file is reproducible."""
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = rng.permutation(len(arrays["energy"]))
    for key, array in arrays.items():
        group.create_dataset(
            key, data=array[order], compression="gzip", compression_opts=9, shuffle=True, track_times=False
        )


def plan(*, n0: int, n1: int, nan_share: float, seed: int, limit: int, cache: Path) -> list[Job]:
    """Return the jobs that yield about ``n0`` and ``n1`` structures."""
    species = list(all_species())[: limit or None]
    in_both = [(index + 1) % FIRST_ONLY_EVERY != 0 for index in range(len(species))]
    first, second = -(-n0 // len(species)), -(-n1 // sum(in_both))
    return [
        Job(index, one, (first, second if both else 0), seed, nan_share, cache)
        for index, (one, both) in enumerate(zip(species, in_both, strict=True))
    ]


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Output folder.")
@click.option("--n0", type=int, default=6500, show_default=True, help="Approximate number of structures of fidelity 0.")
@click.option("--n1", type=int, default=4200, show_default=True, help="Approximate number of structures of fidelity 1.")
@click.option("--nan-share", default=0.25, show_default=True, help="Fraction of fidelity 1 without forces.")
@click.option("--seed", default=20260117, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Number of processes.")
@click.option("--limit", default=0, help="Use only this number of species; 0 for all.")
def main(*, out: Path, n0: int, n1: int, nan_share: float, seed: int, workers: int, limit: int) -> None:
    cache = out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    jobs = plan(n0=n0, n1=n1, nan_share=nan_share, seed=seed, limit=limit, cache=cache)
    total: Counter[str] = Counter()
    with Pool(workers) as pool:
        for outcome in tqdm(pool.imap_unordered(make_species, jobs), total=len(jobs), unit="species", mininterval=2):
            total[outcome.status.partition(":")[0]] += 1
            total.update(outcome.counts)
            if outcome.status not in ("ok", "cached"):
                click.echo(f"{outcome.species}: {outcome.status}", err=True)
    click.echo(", ".join(f"{key}: {number}" for key, number in sorted(total.items())))
    for fidelity in range(len(METHODS)):
        write(out, jobs, seed, fidelity)


if __name__ == "__main__":
    main()
