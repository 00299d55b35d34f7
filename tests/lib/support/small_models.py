"""A small AIMNet2, and batches for it."""

import copy
from typing import Any

import torch
from aimnet.modules import MLP
from torch import Tensor, nn

from aimnet2mult.models.build import build_model
from aimnet2mult.quantities import LABELS

Data = dict[str, Tensor]

OUTPUTS: dict[str, Any] = {
    "energy_mlp": {
        "class": "aimnet.modules.Output",
        "kwargs": {"n_in": 6, "n_out": 1, "key_in": "aim", "key_out": "energy", "mlp": {"hidden": [5]}},
    },
    "atomic_shift": {"class": "aimnet.modules.AtomicShift", "kwargs": {"key_in": "energy", "key_out": "energy"}},
    "atomic_sum": {"class": "aimnet.modules.AtomicSum", "kwargs": {"key_in": "energy", "key_out": "energy"}},
}


class PositionalMLP(nn.Module):
    """A module that passes positional arguments to aimnet's function ``MLP``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        self.mlp = MLP(*arguments)


def definition(*, channels: int = 2, **outputs: Any) -> dict[str, Any]:
    """Return the definition of a small AIMNet2; `outputs` are added to or replace `OUTPUTS`, None removes one."""
    chosen = {**OUTPUTS, **outputs}
    return copy.deepcopy(
        {
            "class": "aimnet.models.AIMNet2",
            "kwargs": {
                "nfeature": 4,
                "d2features": True,
                "ncomb_v": 3,
                "hidden": [[8], [8]],
                "aim_size": 6,
                "num_charge_channels": channels,
                "aev": {"rc_s": 5.0, "nshifts_s": 4},
                "outputs": {name: output for name, output in chosen.items() if output is not None},
            },
        }
    )


ALL = tuple(LABELS.values())


def build(*, labels: Any = ALL, **options: Any) -> Any:
    """Build a model with options of `build_model`, by default with the definition above."""
    return build_model(options.pop("definition", definition()), labels=labels, **options)


def batch(fidelity: list[int], *, atoms: int = 4, padding: int = 0, seed: int = 0) -> Data:
    """Return random structures of the given fidelities, the last one padded by `padding` atoms."""
    generator = torch.Generator().manual_seed(seed)
    count = len(fidelity)
    # On a line, so that no two atoms are too close.
    line = torch.arange(atoms).unsqueeze(-1) * torch.tensor([1.2, 0.0, 0.0])
    elements = torch.tensor([1, 6, 7, 8])
    data = {
        "coord": line + 0.2 * torch.randn(count, atoms, 3, generator=generator),
        "numbers": elements[torch.randint(4, (count, atoms), generator=generator)].int(),
        "charge": torch.zeros(count),
        "mult": torch.ones(count),
        "fidelity": torch.tensor(fidelity),
    }
    if padding:
        data["numbers"][-1, -padding:] = 0
        data["coord"][-1, -padding:] = 0
    return data


def predict(model: torch.nn.Module, data: Data) -> Data:
    """Return the predicted labels, without changing the batch."""
    found = model({key: value.detach().clone() for key, value in data.items()})
    return {label: found[label].detach() for label in LABELS if label in found}
