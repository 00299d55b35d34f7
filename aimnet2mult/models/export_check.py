"""Comparison of an exported model with the model that it comes from, before it is written."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from aimnet.models.artifact_validation import resolve_model_import_policy, validate_v2_artifact
from aimnet.models.base import assemble_v2_model

from aimnet2mult.errors import ModelError
from aimnet2mult.models.aimnet_calculator import AIMNet2Calculator
from aimnet2mult.models.export import Export
from aimnet2mult.models.predictor import Predictor

__all__ = ["calculator_settings", "check_against", "check_export"]

Floats = npt.NDArray[np.float64]
Evaluate = Callable[[Floats, npt.NDArray[np.int64], float, float], tuple[float, Floats]]
"""Returns energy and forces for coordinates (N, 3), atomic numbers (N,), charge and multiplicity."""

SPACING = 1.6
"""Distance of the atoms of the structures that are compared, in Å."""
RELATIVE, ABSOLUTE = 1e-4, 1e-3
"""Tolerance in eV and eV/Å: well above the rounding of float32, well below the effect of a wrong weight."""


def check_export(export: Export, predictor: Predictor, *, added_d3: bool) -> None:
    """Check that aimnet's calculator predicts the same as the model for structures with all elements.

    Args:
        export: The exported model.
        predictor: The model, for the same fidelity.
        added_d3: Whether the exported model has a D3 correction that the model does not have; it is left out.

    Raises:
        ModelError: The predictions differ.
    """
    config, state = validate_v2_artifact(export.artifact, model_import_paths=export.import_paths)
    metadata = {key: value for key, value in export.artifact.items() if key not in ("model_yaml", "state_dict")}
    policy = resolve_model_import_policy(export.import_paths, "extend")
    model = assemble_v2_model(
        config, state, metadata, policy=policy, device="cpu", source="the exported model", unexpected="error"
    )
    calculator = AIMNet2Calculator(model, device="cpu", needs_dispersion=False if added_d3 else None)
    for method, arguments in calculator_settings(export):
        getattr(calculator, method)(**arguments)

    def evaluate(coord: Floats, numbers: npt.NDArray[np.int64], charge: float, mult: float) -> tuple[float, Floats]:
        data = {"coord": coord[None], "numbers": numbers[None], "charge": [charge], "mult": [mult]}
        found = calculator({key: torch.as_tensor(np.asarray(value)) for key, value in data.items()}, forces=True)
        return float(found["energy"].detach()), found["forces"].detach().double().numpy()[0]

    check_against(predictor, evaluate, export.artifact["implemented_species"])


def check_against(predictor: Predictor, evaluate: Evaluate, elements: Sequence[int]) -> None:
    """Compare energies and forces of structures of two sizes that contain all elements.

    Raises:
        ModelError: They differ.
    """
    rng = np.random.default_rng(0)
    for charge, mult, repeats in ((0.0, 1.0, 1), (1.0, 2.0, 2)):
        numbers = np.resize(rng.permutation(np.array(elements)), len(elements) * repeats + 1)
        # On a cubic grid, so that no two atoms are too close.
        grid = np.indices([math.ceil(len(numbers) ** (1 / 3))] * 3).reshape(3, -1).T[: len(numbers)]
        coord = SPACING * grid + rng.normal(0, 0.1, (len(numbers), 3))
        own = predictor(numbers[None], coord[None], charge=[charge], mult=[mult])
        energy, forces = evaluate(coord, numbers, charge, mult)
        reference = predictor.reference(numbers[None])
        _compare("energy", np.array([energy]) - reference, own["energy"] - reference, len(numbers))
        _compare("forces", forces, own["forces"][0], len(numbers))


def _compare(what: str, value: Floats, expected: Floats, atoms: int) -> None:
    error = float(np.abs(value - expected).max())
    # Not true for NaN either.
    if not error <= ABSOLUTE + RELATIVE * float(np.abs(expected).max()):
        raise ModelError(
            f"the exported model is wrong and is not written: for a structure of {atoms} atoms, its {what} differs by "
            f"{error:.3g} eV{'/Å' if what == 'forces' else ''} from that of the model"
        )


def calculator_settings(export: Export) -> list[tuple[str, dict[str, float | str]]]:
    """Return the calls of an aimnet calculator that set what the format does not contain."""
    calls: list[tuple[str, dict[str, float | str]]] = []
    coulomb, d3 = export.coulomb, export.dispersion
    if coulomb.get("method", "simple") == "dsf":
        arguments = {"method": "dsf", "cutoff": coulomb["dsf_rc"], "dsf_alpha": coulomb["dsf_alpha"]}
        calls.append(("set_lrcoulomb_method", arguments))
    elif coulomb.get("method", "simple") != "simple":
        arguments = {"method": coulomb["method"], "ewald_accuracy": coulomb["ewald_accuracy"]}
        calls.append(("set_lrcoulomb_method", arguments))
    if d3 and (d3["cutoff"], d3["smoothing_fraction"]) != (15.0, 0.2):
        calls.append(("set_dftd3_cutoff", {"cutoff": d3["cutoff"], "smoothing_fraction": d3["smoothing_fraction"]}))
    return calls
