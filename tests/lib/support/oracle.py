"""Capture what the model predicts in a run, so that the published values can be recomputed.

`CapturingLoss` is a real loss that writes the arguments of each call to a folder, and `CapturingAdam` a real optimizer
that adds the gradients, before clipping. Both work in every process of a run. Environment variables configure them:
``ORACLE_CAPTURES`` is the folder, ``ORACLE_MASK`` a threshold of the masks, and ``ORACLE_SIGNAL`` a `Mishap`.
"""

import itertools
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.train.loss import MTLoss

__all__ = [
    "CAPTURES",
    "Batch",
    "Call",
    "CapturingAdam",
    "CapturingLoss",
    "CapturingWholeLoss",
    "Mishap",
    "read_batches",
]

CAPTURES, MASK, SIGNAL = "ORACLE_CAPTURES", "ORACLE_MASK", "ORACLE_SIGNAL"
WITHOUT_SPIN = 3
"""The calls with this remainder after a division by 5 have no spin charges."""
LABELS = ("energy", "forces", "charges", "spin_charges")

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of a call of the loss: one rank's share of a batch."""

    training: bool
    time: float
    """When it was called, in seconds of the monotonic clock of the machine."""
    coord: Array
    numbers: Array
    fidelity: Array
    pred: dict[str, Array]
    true: dict[str, Array]
    """Labels and masks."""
    gradient: tuple[Array, ...]
    """The gradient of each parameter, before clipping; empty in validation."""


Batch = list[Call]
"""The calls of all ranks for a batch."""


def read_batches(folder: Path) -> list[Batch]:
    """Return the batches of a process, or of several that shared each batch, in order."""
    paths = sorted(folder.glob("*.npz"))
    return [[_read(path) for path in share] for _, share in itertools.groupby(paths, lambda path: path.name[:6])]


def _read(path: Path) -> Call:
    with np.load(path) as arrays:
        pred, true = (
            {name.partition(" ")[2]: array for name, array in arrays.items() if name.startswith(f"{part} ")}
            for part in ("pred", "true")
        )
        return Call(
            training=bool(arrays["training"]),
            time=float(arrays["time"]),
            coord=arrays["coord"],
            numbers=arrays["numbers"],
            fidelity=arrays["fidelity"],
            pred=pred,
            true=true,
            gradient=tuple(gradient for _, gradient in sorted(_read_gradient(path.with_suffix(".gradient")))),
        )


def _read_gradient(path: Path) -> Iterator[tuple[int, Array]]:
    if path.exists():
        with path.open("rb") as file:
            while file.peek(1):
                yield int(np.load(file)), np.load(file)


class Mishap(NamedTuple):
    """A signal that a rank sends to itself in a call of the loss, as soon as a text is in the journals of a folder."""

    rank: str
    """Empty for a single process."""
    training: int
    """Number of calls in training until then."""
    validation: int
    """Number of calls in validation until then."""
    signal: str
    text: str
    folder: str | Path

    @property
    def variable(self) -> dict[str, str]:
        """The environment variable that causes it."""
        return {SIGNAL: "\n".join(map(str, self))}

    @classmethod
    def from_variable(cls) -> "Mishap | None":
        """Return the mishap that the environment variable asks for, if any."""
        if not (variable := os.environ.get(SIGNAL)):
            return None
        rank, training, validation, *others = variable.split("\n")
        return cls(rank, int(training), int(validation), *others)

    def happen(self) -> None:
        """Wait for the text, and send the signal."""
        while not any(self.text in path.read_text() for path in Path(self.folder).glob("*/journal-*.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.Signals[self.signal])


class Capturing:
    """A mixin that masks some labels and writes the arguments of each call to a file.

    The file is named after the number of the call and the rank.
    """

    first_in: ClassVar[dict[str, "Capturing"]] = {}
    """The loss of the training by folder; another one searches for the structures that spoil a step."""
    latest: ClassVar[Path | None] = None
    """The file of the latest call in training, if the gradient belongs to it."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(y_true, dict)
        threshold = float(os.environ.get(MASK, "0"))
        self.number = getattr(self, "number", 0) + 1
        y_true["energy_mask"] = y_pred["coord"][:, 0, 0] > threshold
        y_true["forces_mask"] = y_pred["coord"][..., 1] > threshold
        y_true["charges_mask"] = y_pred["coord"][:, :1, 2] > threshold
        # Now and then, a label is masked in the whole batch.
        y_true["spin_charges_mask"] = torch.full(y_pred["numbers"].shape[:1], self.number % 5 != WITHOUT_SPIN)
        folder = os.environ[CAPTURES]
        if Capturing.first_in.setdefault(folder, self) is self:
            self._write(Path(folder), y_pred, y_true)
        else:
            Capturing.latest = None
        losses: dict[str, Tensor] = super().__call__(y_pred, y_true)  # type: ignore[misc]
        return losses

    def _write(self, folder: Path, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> None:
        training, rank = torch.is_grad_enabled(), os.environ.get("RANK", "")
        self.calls: list[bool] = [*getattr(self, "calls", []), training]
        arrays = {f"pred {name}": y_pred[name] for name in LABELS if name in y_pred}
        arrays |= {f"true {name}": value for name, value in y_true.items()}
        arrays |= {name: y_pred[name] for name in ("coord", "numbers", "fidelity")}
        path = folder / f"{self.number:06d}-rank{rank}.npz"
        copies: dict[str, Any] = {key: value.detach().numpy() for key, value in arrays.items()}
        np.savez(path, training=training, time=time.monotonic(), **copies)
        Capturing.latest = path if training else None
        mishap = Mishap.from_variable()
        if mishap and mishap[:3] == (rank, self.calls.count(True), self.calls.count(False)):
            mishap.happen()


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


class CapturingAdam(torch.optim.Adam):
    """Adam that appends each parameter's gradient to a file next to that of the call."""

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, **options)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(lambda p, number=number: self._write(number, p.grad))

    @staticmethod
    def _write(number: int, gradient: Tensor) -> None:
        if Capturing.latest is not None:
            with Capturing.latest.with_suffix(".gradient").open("ab") as file:
                np.save(file, number)
                np.save(file, gradient.numpy())
