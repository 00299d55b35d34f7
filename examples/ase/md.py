"""Run a short molecular dynamics simulation of methanol with an exported model.

    aimnet2mult export RUN --fidelity NAME model.pt
    python md.py model.pt

Uses aimnet's own calculator. Requires `pip install aimnet ase`.
"""

import sys

from aimnet.calculators import AIMNet2ASE
from ase import units
from ase.build import molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet


def main(model: str, steps: int = 200) -> None:
    """Simulate at constant energy, starting at 300 K, and write the trajectory to md.traj."""
    atoms = molecule("CH3OH")
    atoms.calc = AIMNet2ASE(model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300)
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs, trajectory="md.traj")

    def report() -> None:
        time = dynamics.get_time() / units.fs
        print(f"{time:6.1f} fs  {atoms.get_temperature():6.1f} K  {atoms.get_total_energy():.4f} eV")

    dynamics.attach(report, interval=steps // 10)
    dynamics.run(steps)


if __name__ == "__main__":
    main(sys.argv[1])
