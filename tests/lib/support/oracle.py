"""Capture what the model predicts in a run, so that the published values can be recomputed.

`CapturingLoss` is a real loss that writes the arguments of each call to the folder in the variable ``ORACLE_CAPTURES``.
It works in every process of a run: the name of a file has the rank, the process and the number of the call.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.train.loss import MTLoss

__all__ = ["CAPTURES", "Call", "CapturingLoss", "CapturingWholeLoss", "read_calls", "undecorated_loss"]

CAPTURES = "ORACLE_CAPTURES"
LABELS = ("energy", "forces", "charges", "spin_charges")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of a call of the loss: one rank's share of a batch."""

    training: bool
    numbers: NDArray[Any]
    fidelity: NDArray[Any]
    pred: Arrays
    true: Arrays
    """Labels and masks."""


def read_calls(folder: Path) -> list[Call]:
    """Return the calls of a single process, in order."""
    return [_read(path) for path in sorted(folder.glob("*.npz"))]


def _read(path: Path) -> Call:
    with np.load(path) as arrays:
        pred, true = (
            {name.partition(" ")[2]: array for name, array in arrays.items() if name.startswith(f"{part} ")}
            for part in ("pred", "true")
        )
        return Call(
            training=bool(arrays["training"]),
            numbers=arrays["numbers"],
            fidelity=arrays["fidelity"],
            pred=pred,
            true=true,
        )


class Capturing:
    """A mixin that masks some labels and writes the arguments of each call to a file."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(y_true, dict)
        y_true["energy_mask"] = y_pred["coord"][:, 0, 0] > -0.5
        y_true["forces_mask"] = y_pred["coord"][..., 1] > -0.5
        self._write(y_pred, y_true)
        losses: dict[str, Tensor] = super().__call__(y_pred, y_true)  # type: ignore[misc]
        return losses

    def _write(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> None:
        self.calls = getattr(self, "calls", 0) + 1
        arrays = {f"pred {name}": y_pred[name] for name in LABELS if name in y_pred}
        arrays |= {f"true {name}": value for name, value in y_true.items()}
        arrays |= {name: y_pred[name] for name in ("numbers", "fidelity")}
        name = f"rank{os.environ.get('RANK', '0')}-{os.getpid()}-{self.calls:06d}.npz"
        copies: dict[str, Any] = {key: value.detach().numpy() for key, value in arrays.items()}
        np.savez(Path(os.environ[CAPTURES]) / name, training=torch.is_grad_enabled(), **copies)


class CapturingLoss(Capturing, MTLoss):
    """The default loss, with sums and counts of its components."""


class WholeLoss:
    """A loss without components: the mean squared error of the labeled energies and charges."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = [undecorated_loss(y_pred, y_true, name) for name in ("energy", "charges")]
        return {"loss": torch.stack(terms).sum()}


class CapturingWholeLoss(Capturing, WholeLoss):
    """A loss without components."""


def undecorated_loss(y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor], key: str = "charges") -> Tensor:
    """Return a mean squared error over labels including padding, without its sum and count."""
    error = torch.nan_to_num(y_pred[key] - y_true[key])
    return error.square().mean()
