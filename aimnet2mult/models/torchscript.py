"""Export of one fidelity in TorchScript, for the calculators of the original trainer.

``torch.jit.script`` does not compile aimnet's modules, whose methods import functions. They are traced instead. A trace
contains the decisions of one evaluation: on a CPU, a dense batch of isolated structures without padding. The module
around the trace rejects everything else.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aimnet2mult.errors import ModelError
from aimnet2mult.models.export import build_one, describe_one
from aimnet2mult.models.export_check import check_against
from aimnet2mult.models.predictor import Predictor
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import atomic_write, remove_temporary_files

__all__ = ["export_torchscript", "write_torchscript"]

Floats = npt.NDArray[np.float64]


class _Core(nn.Module):
    """A model as a function of its inputs."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, coord: Tensor, numbers: Tensor, charge: Tensor, mult: Tensor) -> dict[str, Tensor]:
        found = self.model({"coord": coord, "numbers": numbers, "charge": charge, "mult": mult})
        return {name: found[name] for name in self.names}


class _Checked(nn.Module):
    """A trace, with the interface of the original's models."""

    def __init__(self, traced: torch.jit.ScriptModule, cutoff: float) -> None:
        super().__init__()
        self.traced = traced
        self.cutoff: float = cutoff

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = data["numbers"].long()
        if "mol_idx" in data or "nbmat" in data or "cell" in data or numbers.dim() != 2 or bool((numbers == 0).any()):
            raise ValueError("expected isolated structures of equal size: coord (B, N, 3) and numbers (B, N)")
        found: dict[str, Tensor] = self.traced(data["coord"], numbers, data["charge"], data["mult"])
        return found


def export_torchscript(predictor: Predictor) -> torch.jit.ScriptModule:
    """Return the fidelity of a predictor in TorchScript, with its reference energies and all of its Coulomb energy.

    Raises:
        ModelError: The model cannot be traced, or the trace predicts something else for other structures.
    """
    definition, state, species = describe_one(predictor.saved, predictor.index)
    if dispersion := {"dftd3", "d3ts"} & definition["kwargs"]["outputs"].keys():
        raise ModelError(
            f"--torchscript: the model has a dispersion correction, {dispersion.pop()}, which is not traced"
        )
    model, cutoff = build_one(predictor.saved, predictor.index, definition, state, species)
    names = tuple(label.name for label in predictor.labels if label.name != "forces")
    example = (torch.rand(1, 4, 3) + torch.arange(4).reshape(1, 4, 1), torch.tensor([species[:1] * 4]))
    with warnings.catch_warnings():
        # About the decisions that a trace contains.
        warnings.simplefilter("ignore")
        try:
            core = _Core(model, names).eval().requires_grad_(False)
            traced = torch.jit.trace(core, (*example, torch.zeros(1), torch.ones(1)), check_trace=False, strict=False)
            scripted: torch.jit.ScriptModule = torch.jit.script(_Checked(traced, cutoff).eval())
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"--torchscript: the model cannot be traced: {error_text(error):.500}") from error
    check_against(predictor, lambda *structure: _evaluate(scripted, *structure), species)
    return scripted


def write_torchscript(scripted: torch.jit.ScriptModule, path: Path) -> None:
    """Write a model atomically.

    Raises:
        OSError: The file cannot be written; an earlier version of it is kept.
    """
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    remove_temporary_files(path)
    atomic_write(path, buffer.getbuffer(), mode=0o666)


def _evaluate(
    scripted: torch.jit.ScriptModule, coord: Floats, numbers: npt.NDArray[np.int64], charge: float, mult: float
) -> tuple[float, Floats]:
    """Return energy and forces as the original's calculator computes them."""
    positions = torch.tensor(coord[None], dtype=torch.float32, requires_grad=True)
    data = {"coord": positions, "numbers": torch.tensor(numbers[None])}
    data |= {"charge": torch.tensor([charge]), "mult": torch.tensor([mult])}
    energy = scripted(data)["energy"].sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    return float(energy), -gradient[0].double().numpy()
