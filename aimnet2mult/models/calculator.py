"""ASE calculator for models of several fidelities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from aimnet2mult.config.user_path import expand_user
from aimnet2mult.errors import DataError
from aimnet2mult.models.predictor import Predictor, as_results
from aimnet2mult.models.saved_model import read_saved_model

__all__ = ["MixedFidelityCalculator"]

INFO = {"charge": ("charge",), "mult": ("mult", "spin")}
"""Keys of ``atoms.info``, the first of which that exists is used; those of aimnet's calculator."""


class MixedFidelityCalculator(Calculator):
    """An ASE calculator for one fidelity of a trained model, which also evaluates all of them.

    Energies are in eV and include the reference energies of the fidelity; forces are in eV/Å, charges and spin charges
    in e. ``atoms.info["charge"]`` and ``atoms.info["mult"]`` (or ``"spin"``, also 2S+1) take precedence over the
    arguments. Each structure is an isolated molecule, as in training.

    Args:
        model: Run folder or weight file, or what `aimnet2mult.load_model` has returned.
        fidelity: Name of the fidelity; may be left out if there is only one.
        charge: Total charge in e.
        mult: Spin multiplicity.
        weights: For a run folder, the weights of the best validation or the last ones.
        device: Where to evaluate the model; by default a GPU if there is one.

    Raises:
        ConfigError: The model cannot be read, or there is no such fidelity.
        ModelError: The model cannot be built.
    """

    def __init__(
        self,
        model: Path | str | Predictor,
        fidelity: str | None = None,
        *,
        charge: float = 0.0,
        mult: float = 1.0,
        weights: Literal["best", "last"] = "best",
        device: str = "auto",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # ASE
        if not isinstance(model, Predictor):
            model = Predictor(read_saved_model(expand_user(model), weights), fidelity, device)
        self.predictor = model
        self.charge, self.mult = charge, mult
        names = [label.name for label in self.predictor.labels]
        self.implemented_properties: list[str] = [*names, *(["free_energy"] if "energy" in names else [])]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Predict all properties of ``atoms``.

        Raises:
            DataError: The structure is periodic, or has elements that the fidelity was not trained on.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call] # ASE
        (self.results,) = self._predict(cast("Atoms", self.atoms), [self.predictor.fidelity])

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, including charge and multiplicity."""
        changes: list[str] = super().check_state(atoms, tol=tol)  # type: ignore[no-untyped-call] # ASE
        if self.atoms is not None and self._state(atoms) != self._state(self.atoms):
            changes.append("info")
        return changes

    def evaluate_all(self, atoms: Atoms) -> dict[str, dict[str, Any]]:
        """Return the predictions of all fidelities by name; each is a mapping of properties as in ``calculate``.

        Raises:
            DataError: The structure is periodic, or has elements that a fidelity was not trained on.
        """
        names = self.predictor.saved.fidelity_names
        return dict(zip(names, self._predict(atoms, names), strict=True))

    def _predict(self, atoms: Atoms, fidelities: Sequence[str]) -> list[dict[str, Any]]:
        if atoms.pbc.any():
            raise DataError(
                "the structure is periodic, and the model treats structures as isolated molecules; set atoms.pbc to "
                "False, or export the model and use aimnet.calculators.AIMNet2ASE"
            )
        charge, mult = self._state(atoms)
        shape = (len(fidelities), len(atoms))
        values = self.predictor(
            np.broadcast_to(atoms.numbers, shape),
            np.broadcast_to(atoms.positions, (*shape, 3)),
            charge=charge,
            mult=mult,
            fidelities=fidelities,
        )
        found = [as_results(values, row) for row in range(len(fidelities))]
        return [{**one, "free_energy": one["energy"]} if "energy" in one else one for one in found]

    def _state(self, atoms: Atoms) -> tuple[float, float]:
        """Return charge and multiplicity."""
        given = [[atoms.info[key] for key in keys if key in atoms.info] for keys in INFO.values()]
        (charge, mult) = given
        return float(charge[0] if charge else self.charge), float(mult[0] if mult else self.mult)
