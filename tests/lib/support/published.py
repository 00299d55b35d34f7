"""Models in the formats in which AIMNet2 models are published, with random weights."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from aimnet.train.export_model import export_model
from click.testing import CliRunner
from torch import Tensor, nn

from aimnet2mult.models.build import build_model
from aimnet2mult.quantities import LABELS
from support.small_models import definition

SPECIES = {1: -13.5871234567, 6: -1029.8412345678, 7: -1485.3212345678, 8: -2042.6112345678}
"""Energies of the supported elements, in eV."""


def long_range() -> dict[str, Any]:
    """Return the definition of a small model with the long-range modules of published ones."""
    return definition(
        channels=1,
        lrcoulomb={
            "class": "aimnet.modules.LRCoulomb",
            "kwargs": {"rc": 4.1, "key_in": "charges", "key_out": "energy"},
        },
        dftd3={"class": "aimnet.modules.DFTD3", "kwargs": {"s8": 0.3908, "a1": 0.566, "a2": 3.128}},
    )


def random_model(chosen: Mapping[str, Any], seed: int = 0) -> Any:
    """Build a model of one fidelity in which all parameters are random."""
    torch.manual_seed(seed)
    model: Any = build_model(copy.deepcopy(dict(chosen)), labels=(LABELS["energy"],)).eval()
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
        # The rows of padding, which are always 0.
        model.afv.weight[0] = 0
        model.outputs.atomic_shift.shifts.weight[0] = 0
    return model


def write_aimnet(folder: Path, seed: int = 0) -> Path:
    """Write a random model with ``aimnet export``, and return the file."""
    torch.save(random_model(long_range(), seed).state_dict(), folder / "plain.pt")
    (folder / "export.yaml").write_text(yaml.safe_dump(long_range(), sort_keys=False))
    (folder / "export.sae").write_text(yaml.safe_dump(SPECIES))
    command = [folder / "plain.pt", folder / "v2.pt", "--model", folder / "export.yaml", "--sae", folder / "export.sae"]
    result = CliRunner().invoke(export_model, [str(word) for word in command])
    assert not result.exit_code, result.output
    return folder / "v2.pt"


def write_script(path: Path, arrays: Mapping[str, Tensor]) -> Path:
    """Write a TorchScript archive whose modules contain arrays with these names."""
    root = _Scripted()
    for name, array in arrays.items():
        module = root
        *parents, last = name.split(".")
        for part in parents:
            if part not in module._modules:
                module.add_module(part, _Scripted())
            module = module.get_submodule(part)  # type: ignore[assignment]
        module.register_buffer(last, array)
    torch.jit.script(root).save(str(path))  # type: ignore[no-untyped-call] # torch
    return path


def with_energies_of_atoms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose shifts include the energies of the supported elements, and are 0 for all others."""
    shifts = torch.zeros_like(state["outputs.atomic_shift.shifts.weight"])
    for z, energy in SPECIES.items():
        shifts[z] = state["outputs.atomic_shift.shifts.weight"][z] + energy
    return {**state, "outputs.atomic_shift.shifts.weight": shifts}


class _Scripted(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        """Return the argument."""
        return values
