"""Export of one fidelity in TorchScript, for the calculators of the original trainer.

``torch.jit.script`` does not compile aimnet's modules, whose methods import functions. They are traced instead. A trace
contains the decisions of one evaluation: on a CPU, a dense batch of isolated structures without padding. The module
around the trace rejects everything else.
"""

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.errors import ModelError
from aimnet2mult.models.export import build_one, take_one
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
    """A trace, with the interface of the original's models, and with the reference energies."""

    def __init__(self, traced: torch.jit.ScriptModule, cutoff: float, energies: Mapping[int, float]) -> None:
        super().__init__()
        self.traced = traced
        self.cutoff: float = cutoff
        # Not in the trace, because TorchScript fails to differentiate a sum of float32 and float64.
        table = torch.full((MAX_ELEMENT + 1,), math.nan, dtype=torch.float64)
        table[list(energies)] = torch.tensor(list(energies.values()), dtype=torch.float64)
        self.energies: Tensor
        self.register_buffer("energies", table)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = data["numbers"].long()
        other = "mol_idx" in data or "nbmat" in data or "cell" in data
        if other or data["coord"].dim() != numbers.dim() + 1 or bool((numbers == 0).any()):
            raise ValueError("expected isolated structures of equal size: coord (B, N, 3) and numbers (B, N)")
        found: dict[str, Tensor] = self.traced(data["coord"], numbers, data["charge"], data["mult"])
        found["energy"] = found["energy"].double() + self.energies[numbers].sum(-1)
        return found


def export_torchscript(predictor: Predictor) -> torch.jit.ScriptModule:
    """Return the fidelity of a predictor in TorchScript, with its reference energies and all of its Coulomb energy.

    Raises:
        ModelError: The model cannot be traced, or the trace predicts something else for other structures.
    """
    one = take_one(predictor.saved, predictor.index)
    if {"dftd3", "d3ts"} & one.definition["kwargs"]["outputs"].keys():
        raise ModelError("--torchscript: the model has a dispersion correction, which cannot be traced")
    model, cutoff = build_one(one)
    names = tuple(label.name for label in predictor.labels if label.name != "forces")
    # A chain of four atoms; the trace is for any number.
    example = (torch.arange(12.0).reshape(1, 4, 3), torch.tensor([one.species[:1] * 4]))
    with warnings.catch_warnings():
        # About the decisions that a trace contains.
        warnings.simplefilter("ignore")
        try:
            core = _Core(model, names).eval().requires_grad_(False)
            inputs = (*example, torch.zeros(1), torch.ones(1))
            traced = torch.jit.trace(core, inputs, check_trace=False, strict=False)  # type: ignore[no-untyped-call] # torch
            scripted: torch.jit.ScriptModule = torch.jit.script(_Checked(traced, cutoff, one.energies).eval())
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"--torchscript: the model cannot be traced: {error_text(error):.500}") from error
    check_against(predictor, lambda *structure: _evaluate(scripted, *structure), one.species)
    return scripted


def write_torchscript(scripted: torch.jit.ScriptModule, path: Path) -> None:
    """Write a model atomically.

    Raises:
        OSError: The file cannot be written; an earlier version of it is kept.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # TorchScript is deprecated.
        warnings.simplefilter("ignore")
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
    return float(energy.detach()), -gradient[0].double().numpy()
