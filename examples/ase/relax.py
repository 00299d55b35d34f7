"""Relax methanol with a trained model, and compare the energies of all of its fidelities.

    python relax.py RUN [FIDELITY]

RUN is a run folder, or a weight file written by --save. Requires `pip install 'aimnet2mult[train]' ase`.
"""

import sys

from ase.build import molecule
from ase.io import write
from ase.optimize import BFGS

from aimnet2mult.models.calculator import MixedFidelityCalculator


def main(model: str, fidelity: str | None = None) -> None:
    """Relax the molecule, write it to relaxed.xyz, and print its energies."""
    atoms = molecule("CH3OH")
    atoms.info.update(charge=0, mult=1)
    atoms.calc = MixedFidelityCalculator(model, fidelity)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    write("relaxed.xyz", atoms)
    print(f"O-H bond: {atoms.get_distance(1, 3):.3f} Å")
    for name, found in atoms.calc.evaluate_all(atoms).items():
        print(f"{name}: {found['energy']:.4f} eV")


if __name__ == "__main__":
    main(*sys.argv[1:])
