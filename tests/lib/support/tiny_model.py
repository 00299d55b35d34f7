"""A tiny model, loss and batches, with labels of realistic shapes."""

import os
import signal
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from aimnet2mult.train.loss import MTLoss

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


class TinyCore(nn.Module):
    """A model with dropout that predicts energy and charges from the element and the distance from the origin."""

    def __init__(self, features: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, features)
        self.mlp = nn.Sequential(nn.Linear(features + 1, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        real = (data["numbers"] != 0).unsqueeze(-1)
        distance = (data["coord"].square().sum(-1, keepdim=True) + 1).sqrt()
        out = self.mlp(torch.cat([self.embedding(data["numbers"].long()), distance], -1)) * real
        data["energy"], data["charges"] = out[..., 0].sum(-1), out[..., 1]
        return data


class TinyModel(TinyCore):
    """A `TinyCore` that also predicts forces."""

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.enable_grad():
            coord = data["coord"].requires_grad_()
            data = super().forward(data)
            (gradient,) = torch.autograd.grad(data["energy"].sum(), coord, create_graph=self.training)
        return {**data, "forces": -gradient}


class FragileCore(TinyCore):
    """A `TinyCore` whose energy is NaN for structures whose first atom is more than 9 Å from the origin along x."""

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        data = super().forward(data)
        data["energy"] = torch.where(data["coord"][:, 0, 0] > 9, torch.nan, data["energy"])
        return data


class SquaredLoss:
    """The sum of the mean squared errors of all labels, where NaN counts as zero error."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = [torch.nan_to_num(y_pred[key] - value).square().mean() for key, value in y_true.items()]
        return {"loss": torch.stack(terms).sum()}


class Stopping:
    """A mixin that sends SIGTERM to this process at a chosen call, in training or validation."""

    calls_left: ClassVar[int | None] = None

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if Stopping.calls_left is not None:
            Stopping.calls_left -= 1
            if Stopping.calls_left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(y_pred, y_true)  # type: ignore[misc,no-any-return]


class StoppingLoss(Stopping, SquaredLoss):
    """A squared loss that can stop its process."""


class StoppingMTLoss(Stopping, MTLoss):
    """The real loss, able to stop its process."""


class FailingLoss(SquaredLoss):
    """A loss that raises at the third call."""

    calls = 0

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == 3:
            raise ArithmeticError("the third call")
        return super().__call__(y_pred, y_true)


def batches(number: int, *, structures: int = 3, atoms: int = 4, seed: int = 0) -> list[Batch]:
    """Return random batches of two fidelities, with padding."""
    return list(_batches(number, structures, atoms, torch.Generator().manual_seed(seed)))


def _batches(number: int, structures: int, atoms: int, rng: torch.Generator) -> Iterator[Batch]:
    for _ in range(number):
        numbers = torch.randint(1, 9, (structures, atoms), generator=rng)
        numbers[0, -1] = 0
        x = {
            "coord": torch.randn(structures, atoms, 3, generator=rng),
            "numbers": numbers,
            "charge": torch.zeros(structures),
            "mult": torch.ones(structures),
            "fidelity": torch.arange(structures) % 2,
        }
        y = {
            "energy": torch.randn(structures, generator=rng),
            "forces": torch.randn(structures, atoms, 3, generator=rng),
            "charges": torch.randn(structures, atoms, generator=rng),
        }
        yield x, y
