"""Energies that the source of initial weights predicts, computed without the code that transfers the weights."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from aimnet.models.utils import convert_atomic_shifts_to_float64
from torch import Tensor, nn

from aimnet2mult.data.reference_energies import sum_references
from aimnet2mult.errors import ModelError
from aimnet2mult.models.build import build_model, unwrap
from aimnet2mult.models.saved_model import build_saved_model
from aimnet2mult.models.weight_sources import WeightSource
from aimnet2mult.quantities import LABELS
from telemetry.errors import error_text

__all__ = ["predict_energy", "source_energies"]

Structure = Mapping[str, Tensor]
"""``coord`` (1, N, 3), ``numbers`` (1, N), ``charge`` (1,) and ``mult`` (1,) on the CPU."""

TABLES = ("afv.weight", ".shifts.weight")
"""Endings of the names of tables with one row per element."""


def source_energies(
    source: WeightSource, fidelity: int, structures: Sequence[Structure], definition: Mapping[str, Any]
) -> list[float]:
    """Return the total energies in eV that a source predicts for structures.

    Files in aimnet's format are evaluated by aimnet's calculator, models of this trainer as they were trained, and
    weights without a description as an AIMNet2 of a single fidelity.

    Args:
        source: The source.
        fidelity: The fidelity in the source.
        structures: The structures.
        definition: The definition of the model, for weights without a description.

    Raises:
        ModelError: The source cannot be evaluated.
    """
    try:
        if source.is_aimnet:
            # Only here, because it imports the kernels that models rarely need.
            from aimnet2mult.models.aimnet_calculator import AIMNet2Calculator

            calculator = AIMNet2Calculator(str(source.path.resolve()), device="cpu")
            return [float(calculator(dict(structure))["energy"]) for structure in structures]
        if source.saved is not None:
            model = build_saved_model(source.saved, torch.device("cpu"))
        else:
            model = _single(definition, dict(_arrays_of(source.arrays, fidelity)), source.offset * fidelity)
    except Exception as error:  # any: the source may be incomplete or damaged
        raise ModelError(f"load: {source.path} cannot be evaluated: {error_text(error):.500}") from error
    added = {} if source.includes_references else source.reference_energies[fidelity]
    sums = [float(sum_references(structure["numbers"].numpy(), added)[0]) for structure in structures]
    energies = [predict_energy(model, structure, fidelity) for structure in structures]
    return [energy + references for energy, references in zip(energies, sums, strict=True)]


def predict_energy(model: nn.Module, structure: Structure, fidelity: int) -> float:
    """Return the energy in eV that a model on the CPU predicts for a structure, without reference energies."""
    with torch.no_grad():
        return float(unwrap(model)({**structure, "fidelity": torch.tensor([fidelity])})["energy"])


def _single(definition: Mapping[str, Any], arrays: dict[str, Tensor], start: int) -> nn.Module:
    """Build the model of a single fidelity, with the rows of the tables that begin at ``start``."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(definition, labels=(LABELS["energy"],))
    convert_atomic_shifts_to_float64(model)
    for name, own in model.state_dict().items():
        if name.endswith(TABLES) and name in arrays:
            rows = arrays[name][start : start + len(own)]
            arrays[name] = torch.cat([rows, own[len(rows) :]])
    missing, _ = model.load_state_dict(arrays, strict=False)
    lacking = [name for name, _ in model.named_parameters() if name in missing]
    if lacking:
        raise ModelError(f"it has no {', '.join(lacking[:4])}")
    return model.eval()


def _arrays_of(arrays: Mapping[str, Tensor], fidelity: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of one fidelity by their names in AIMNet2.

    The original trainer keeps its heads in ``fidelity_readouts``; its ``outputs`` and ``shared_readout`` are then
    copies that were never trained.
    """
    prefix = "model." if "model.afv.weight" in arrays else ""
    of_original = any(name.startswith("fidelity_readouts.") for name in arrays)
    for name, array in arrays.items():
        plain = name.removeprefix(prefix)
        if found := re.fullmatch(r"fidelity_readouts\.(\d+)\.(.+)", plain):
            if int(found[1]) == fidelity:
                yield f"outputs.{found[2]}", array
        elif found := re.fullmatch(r"(outputs\.\w+)\.heads\.(\d+)\.(.+)", plain):
            if int(found[2]) == fidelity:
                yield f"{found[1]}.{found[3]}", array
        elif not of_original or not plain.startswith(("shared_readout.", "outputs.")):
            yield plain.replace("shared_readouts.", "outputs.", 1), array
