"""Write plausible training data of any size: chain molecules, displaced at random, with harmonic labels.

``python benchmarks/synthetic_data.py FILE --structures 2000000`` writes 1.5 GB within ten seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float32]

TWENTY = ("CCCCCC", "CCNCOCC", "CCOCOCOC", "CCccCNC")
"""Chains that have 20 atoms with their hydrogens."""
AROUND_TWENTY = (*TWENTY, "CCCCC", "CCOCCC", "CCOCOCC", "CCCCCCO", "CCCCCCN", "CCCCCCC")
"""Chains of 17 to 23 atoms."""
HYDROGENS = {"C": 2, "c": 1, "N": 1, "O": 0}
"""Hydrogens of an atom within a chain; one more at each end. Lower case stands for a double bond."""
NUMBERS = {"C": 6, "c": 6, "N": 7, "O": 8}
REFERENCES = {1: -13.6, 6: -1029.0, 7: -1485.0, 8: -2042.0}
"""Rough energies of the atoms, in eV."""
CHARGES = {1: 0.1, 6: -0.2, 7: -0.3, 8: -0.3}
"""Rough charges of the atoms, in e, before they are shifted to a sum of 0."""
DISPLACEMENT = 0.05
"""Standard deviation of the displacement along each axis, in Å."""
STIFFNESS = 20.0
"""Force constant of fidelity 0, in eV/Å²; those of the others are smaller."""
BLOCK = 50_000
"""Structures that are in memory at once."""


def make_molecule(chain: str) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return atomic numbers (N,) and coordinates (N, 3), in Å, of a zigzag chain of C, N and O with its hydrogens."""
    numbers, coord = [], []
    for index, element in enumerate(chain):
        side = 1.0 if index % 2 else -1.0
        x, y = 1.26 * index, 0.42 * side
        numbers.append(NUMBERS[element])
        coord.append((x, y, 0.0))
        places = {0: [], 1: [(0.0, side, 0.0)], 2: [(0.0, 0.63 * side, 0.88), (0.0, 0.63 * side, -0.88)]}
        hydrogens = list(places[HYDROGENS[element]])
        hydrogens += [(-0.95, -0.4 * side, 0.0)] * (index == 0) + [(0.95, -0.4 * side, 0.0)] * (index == len(chain) - 1)
        numbers += [1] * len(hydrogens)
        coord += [(x + dx, y + dy, dz) for dx, dy, dz in hydrogens]
    return np.array(numbers, np.int32), np.array(coord, np.float32)


def displace(molecules: Sequence[tuple[Any, Floats]], count: int, stiffness: float, rng: np.random.Generator) -> Arrays:
    """Return ``count`` structures of molecules of the same size, drawn at random, with labels."""
    which = rng.integers(0, len(molecules), count)
    numbers = np.stack([each for each, _ in molecules])
    references = np.array([sum(REFERENCES[z] for z in each.tolist()) for each in numbers])
    charges = np.array([[CHARGES[z] for z in each.tolist()] for each in numbers], np.float32)
    moves = rng.standard_normal((count, numbers.shape[1], 3), np.float32)
    moves *= DISPLACEMENT
    shifts = charges[which] + moves[..., 0]
    return {
        "coord": np.stack([each for _, each in molecules])[which] + moves,
        "numbers": numbers[which],
        "charge": np.zeros(count, np.float32),
        "energy": references[which] + stiffness / 2 * np.einsum("bnc,bnc->b", moves, moves, dtype=np.float64),
        "forces": np.float32(-stiffness) * moves,
        "charges": shifts - shifts.mean(axis=1, keepdims=True),
        "spin_charges": moves[..., 1] - moves[..., 1].mean(axis=1, keepdims=True),
    }


def group_by_size(chains: Sequence[str]) -> dict[int, list[tuple[Any, Floats]]]:
    """Return the molecules by number of atoms."""
    sizes: dict[int, list[tuple[Any, Floats]]] = {}
    for molecule in map(make_molecule, chains):
        sizes.setdefault(len(molecule[0]), []).append(molecule)
    return dict(sorted(sizes.items()))


def write(
    path: Path,
    structures: int,
    *,
    chains: Sequence[str] = TWENTY,
    fidelity: int = 0,
    compression: str | None = None,
    seed: int = 0,
) -> None:
    """Write an HDF5 file.

    Args:
        path: The file; it is replaced.
        structures: Number of structures.
        chains: Heavy atoms of the molecules.
        fidelity: Fidelity, whose energies and forces differ from those of the others.
        compression: ``gzip`` or ``lzf``, in chunks chosen by h5py; by default, the arrays are contiguous.
        seed: Seed of the structures.

    Each number of atoms has the same number of structures.
    """
    rng = np.random.default_rng([seed, fidelity])
    stiffness = STIFFNESS / (1 + fidelity / 4)
    sizes = group_by_size(chains)
    shares = np.diff(np.linspace(0, structures, len(sizes) + 1).astype(int)).tolist()
    with h5py.File(path, "w") as file:
        for (atoms, molecules), rows in zip(sizes.items(), shares, strict=True):
            group = file.create_group(f"{atoms:03d}")
            for key, values in displace(molecules, 1, stiffness, rng).items():
                chunks = True if compression else None
                group.create_dataset(
                    key, (rows, *values.shape[1:]), values.dtype, compression=compression, chunks=chunks
                )
            for start in range(0, rows, BLOCK):
                block = displace(molecules, min(BLOCK, rows - start), stiffness, rng)
                for key, values in block.items():
                    group[key][start : start + len(values)] = values


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--structures", default=2_000_000, show_default=True)
@click.option("--sizes", default="20", type=click.Choice(["20", "17-23"]), show_default=True, help="Numbers of atoms.")
@click.option("--fidelity", default=0, show_default=True, help="Fidelity, which determines the force constant.")
@click.option("--compression", type=click.Choice(["gzip", "lzf"]), help="Default: none.")
@click.option("--seed", default=0, show_default=True)
def main(*, path: Path, structures: int, sizes: str, fidelity: int, compression: str | None, seed: int) -> None:
    """Write training data to an HDF5 file."""
    chains = TWENTY if sizes == "20" else AROUND_TWENTY
    write(path, structures, chains=chains, fidelity=fidelity, compression=compression, seed=seed)


if __name__ == "__main__":
    main()
