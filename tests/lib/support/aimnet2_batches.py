"""The AIMNet2 of the sample, batches for it, and the settings of its training."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import aimnet2mult
from aimnet2mult.train.loss import MTLoss
from support.labels import built_in

SAMPLE = Path(aimnet2mult.__file__).parent / "sample"
DEFINITION: dict[str, Any] = yaml.safe_load((SAMPLE / "model.yaml").read_text(encoding="utf-8"))
LABELS = built_in("energy", "forces", "charges", "spin_charges")
COMPONENTS = {
    name: {
        "fn": f"aimnet2mult.train.loss.{function}",
        "weight": 1.0,
        "kwargs": {"key_pred": name, "key_true": name},
    }
    for name, function in {
        "energy": "energy_loss_fn",
        "forces": "peratom_loss_fn",
        "charges": "peratom_loss_fn",
    }.items()
}

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


def make_loss() -> MTLoss:
    """Return the loss of energy, forces and charges."""
    return MTLoss(COMPONENTS)


def make_batches(number: int, *, structures: int = 6, atoms: int = 5, padding: int = 0) -> list[Batch]:
    """Return batches of two fidelities, with missing labels, the first structure padded by ``padding`` atoms."""
    rng = torch.Generator().manual_seed(number)
    batches = []
    for _ in range(number):
        numbers = torch.tensor([1, 6, 7, 8])[torch.randint(4, (structures, atoms), generator=rng)]
        # On a line, so that no two atoms are too close.
        coord = torch.arange(atoms).unsqueeze(-1) * torch.tensor([1.3, 0.0, 0.0])
        coord = coord + 0.2 * torch.randn(structures, atoms, 3, generator=rng)
        if padding:
            numbers[0, -padding:], coord[0, -padding:] = 0, 0.0
        x = {
            "coord": coord,
            "numbers": numbers,
            "charge": torch.zeros(structures),
            "mult": torch.ones(structures),
            "fidelity": torch.randint(2, (structures,), generator=rng),
        }
        y = {label.name: torch.randn(label.shape(structures, atoms), generator=rng) for label in LABELS}
        y["forces"][1] = torch.nan
        batches.append((x, y))
    return batches
