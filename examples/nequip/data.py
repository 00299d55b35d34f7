"""Write data for the examples: frames of a copper cluster that is shaken at random, with energies and forces in eV."""

import sys

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

random = np.random.default_rng(1)
square = np.array([[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0], [0, 0, 2.4], [2.4, 2.4, 0], [2.4, 0, 2.4]])
frames = []
for _ in range(40):
    atoms = Atoms("Cu6", square + random.normal(scale=0.1, size=square.shape), cell=[20, 20, 20], pbc=False)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    frames.append(atoms)
write(sys.argv[1], frames)
