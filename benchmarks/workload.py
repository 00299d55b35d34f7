"""The work shared by all variants: a batch with two fidelities, a small torch step, and RMSEs in plain torch."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from aimnet2mult.quantities import LABELS as BUILT_IN
from aimnet2mult.quantities import Label

LABELS = ("energy", "forces", "charges", "spin_charges")
COMPONENTS = {"energy": 1, "forces": 3, "charges": 1, "spin_charges": 1}
SHORT = {"energy": "E", "forces": "F", "charges": "q", "spin_charges": "s"}
FIDELITIES = ("gfn1", "wb97m")
STRUCTURES, ATOMS = 64, 20
WIDTH = 16


def built_in(*names: str) -> tuple[Label, ...]:
    """Return the built-in labels with these names, in their order."""
    return tuple(BUILT_IN[name] for name in names)


class Batch(NamedTuple):
    """The arguments of ``ErrorSums.update``."""

    pred: dict[str, Tensor]
    true: dict[str, Tensor]
    numbers: Tensor
    fidelity: Tensor
    loss: Tensor


def make_batch(
    structures: int = STRUCTURES,
    atoms: int = ATOMS,
    fidelities: int = len(FIDELITIES),
    labels: tuple[str, ...] = LABELS,
) -> Batch:
    """Return a batch with padding, masks, and NaN for a fifth of each label; deterministic."""
    rng = torch.Generator().manual_seed(2)
    sizes = torch.randint(atoms // 2, atoms + 1, (structures,), generator=rng)
    numbers = torch.randint(1, 9, (structures, atoms), generator=rng)
    numbers[torch.arange(atoms) >= sizes.unsqueeze(-1)] = 0
    true, pred = {}, {}
    for name in labels:
        shape = {"energy": (structures,), "forces": (structures, atoms, 3)}.get(name, (structures, atoms))
        label = torch.randn(shape, generator=rng)
        pred[name] = label + 0.1 * torch.randn(shape, generator=rng)
        label[torch.rand(structures, generator=rng) < 0.2] = torch.nan  # noqa: PLR2004 - a fifth
        true[name] = label
        true[f"{name}_mask"] = torch.rand(structures, generator=rng) < 0.9  # noqa: PLR2004 - nine tenths
    fidelity = torch.randint(0, fidelities, (structures,), generator=rng)
    return Batch(pred, true, numbers, fidelity, torch.tensor(0.25))


class Step(Protocol):
    """A step of a training loop."""

    optimizer: torch.optim.Optimizer

    def __call__(self) -> Batch:
        """Run the step; return the batch."""


class TrainingStep:
    """A training step of a small network that predicts all labels: forward, backward, SGD."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self._batch = make_batch()
        self._x = torch.randn(STRUCTURES, ATOMS, 8)
        outputs = sum(COMPONENTS.values())
        self.model = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)

    def __call__(self) -> Batch:
        """Run the step; return the batch with the predictions."""
        self.optimizer.zero_grad(set_to_none=True)
        out = self.model(self._x)
        pred = {
            "energy": out[:, :, 0].sum(-1),
            "forces": out[:, :, 1:4],
            "charges": out[:, :, 4],
            "spin_charges": out[:, :, 5],
        }
        loss = out.square().mean()
        loss.backward()
        self.optimizer.step()
        detached = {name: value.detach() for name, value in pred.items()}
        return self._batch._replace(pred=detached, loss=loss.detach())


class MatrixProduct:
    """A step of ``repeats`` matrix products on all threads of torch, with the batch of ``TrainingStep``."""

    SIZE = 400

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._batch = make_batch()
        self._a, self._b = torch.randn(2, self.SIZE, self.SIZE) / self.SIZE**0.5
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)

    def __call__(self) -> Batch:
        """Run the step; return the batch."""
        x = self._a
        for _ in range(self._repeats):
            x = x @ self._b
        return self._batch

    @classmethod
    def repeats_for(cls, seconds: float) -> int:
        """Return the number of products that take the given time on this machine."""
        step = cls(20)
        step()
        times = []
        for _ in range(10):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return max(1, round(20 * seconds / min(times)))


@torch.no_grad()
def plain_rmses(batch: Batch) -> dict[str, Tensor]:
    """Return the loss and the masked RMSE of each label, written as in a typical training script."""
    real = batch.numbers > 0
    values = {"train/loss": batch.loss}
    for name in LABELS:
        label, error = batch.true[name], batch.pred[name] - batch.true[name]
        counted = counted_components(label, batch.true[f"{name}_mask"], real)
        square = torch.where(counted, error, 0.0).square()
        values[f"train/{SHORT[name]}_rmse"] = (square.sum() / counted.sum()).sqrt()
    return values


def counted_components(label: Tensor, mask: Tensor, real: Tensor) -> Tensor:
    """Return a mask of the components that count: known, not masked, and not padding."""
    counted = ~label.isnan()
    if label.ndim == 1:
        return counted & mask
    if label.ndim == real.ndim:
        return counted & mask[:, None] & real
    return counted & mask[:, None, None] & real[:, :, None]


class PlainSums:
    """Error sums in plain torch, label by label: squares and counts per fidelity, and the energy error per atom."""

    def __init__(self, labels: tuple[str, ...] = LABELS, fidelities: int = len(FIDELITIES)) -> None:
        self.sums = {name: torch.zeros(2, fidelities, dtype=torch.float64) for name in labels}
        self.per_atom = torch.zeros(fidelities, dtype=torch.float64)
        self.loss = torch.zeros(2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """Add a batch."""
        real = batch.numbers > 0
        for name, (squares, counts) in self.sums.items():
            label = batch.true[name]
            counted = counted_components(label, batch.true[f"{name}_mask"], real)
            square = torch.where(counted, batch.pred[name] - label, 0.0).double().square()
            count = counted.double()
            if name == "energy":
                self.per_atom.index_add_(0, batch.fidelity, square / real.sum(-1).square())
            else:
                axes = tuple(range(1, label.ndim))
                square, count = square.sum(axes), count.sum(axes)
            squares.index_add_(0, batch.fidelity, square)
            counts.index_add_(0, batch.fidelity, count)
        self.loss[0] += batch.loss
        self.loss[1] += 1
