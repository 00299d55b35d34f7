"""A model and loss in double precision, so that runs can be compared to 1e-9, and failures on request.

The variable ``MISHAP=rank:call:what`` makes a rank fail or get a signal before a call of the loss, or makes its loss
NaN. The rank of a single process is empty.
"""

import os
import signal
from collections.abc import Mapping
from typing import Any

import torch
from aimnet.modules import Forces
from torch import Tensor, nn

from aimnet2mult.errors import ModelError
from aimnet2mult.train.loss import MTLoss

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


class Double(nn.Module):
    """A model of all labels except forces, from the element, the fidelity and the distance from the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = nn.Embedding(64, 4)
        self.fidelities = nn.Embedding(2, 4)
        self.mlp = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3))
        # Its output is not part of any loss.
        self.idle = nn.Linear(1, 1)
        self.double()

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = data["numbers"].long()
        features = self.elements(numbers) + self.fidelities(data["fidelity"]).unsqueeze(1)
        distance = (data["coord"].double().square().sum(-1, keepdim=True) + 1).sqrt()
        out = self.mlp(torch.cat([features, distance], -1)) * (numbers != 0).unsqueeze(-1)
        data["energy"], data["charges"], data["spin_charges"] = out[..., 0].sum(-1), out[..., 1], out[..., 2]
        data["idle"] = self.idle(distance)
        return data


def build(*_: object, **__: object) -> nn.Module:
    """Replace `build_model`, which supports several fidelities only for AIMNet2; fails for a MISHAP named ``build``."""
    if os.environ.get("MISHAP", "").startswith(f"{_rank()}:build:"):
        raise ModelError("no such model here")
    model: nn.Module = Forces(Double())
    return model


def add_masks(x: Mapping[str, Tensor], y: dict[str, Tensor]) -> None:
    """Mask labels depending only on the structure, so that all ranks agree."""
    y["energy_mask"] = x["coord"][:, 0, 0] > -1
    y["forces_mask"] = x["coord"][..., 0] > 0


class MaskedLoss(MTLoss):
    """The real loss with masked labels. ``MISHAP=rank:call:what`` triggers a failure before a call on a rank.

    Calls are numbered 1, 2, … in training and v1, v2, … in validation.
    """

    def __init__(self, components: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(components)
        self.calls = {"": 0, "v": 0}

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        kind = "" if torch.is_grad_enabled() else "v"
        self.calls[kind] += 1
        rank, call, what = os.environ.get("MISHAP", "::").split(":")
        happens = (rank, call) == (_rank(), f"{kind}{self.calls[kind]}")
        if happens and what == "raise":
            raise ArithmeticError("the sum is wrong")
        if happens and what.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[what])
        add_masks(y_pred, y_true)
        losses = super().__call__(y_pred, y_true)
        return losses | {"loss": losses["loss"] * torch.nan} if happens and what == "nan" else losses


def as_double(batch: Batch, _: torch.device) -> Batch:
    """Replace the copy to the device by a conversion to double precision."""
    x, y = ({key: value.double() if value.is_floating_point() else value for key, value in p.items()} for p in batch)
    return x, y


def _rank() -> str:
    """Return the rank, or "" for a single process."""
    return os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "")
