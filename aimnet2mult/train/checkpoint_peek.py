"""Read how far a checkpoint is, without importing torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aimnet2mult.errors import CheckpointError
from aimnet2mult.models.envelope import take_out
from aimnet2mult.models.torch_file import read_plain

__all__ = ["EarlyStoppingState", "Progress", "check_content", "read_progress"]


class EarlyStoppingState(msgspec.Struct, frozen=True):
    """The state of `EarlyStopping`; that without a metric in a checkpoint of an earlier version."""

    metric: str | None = None
    value: float = math.inf
    iteration: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    waited: Annotated[int, Meta(ge=0, lt=2**53)] = 0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the training was when a checkpoint was written."""

    iteration: int
    epoch_length: int
    """Number of iterations per epoch."""
    owes_evaluation: bool
    """Whether an evaluation was interrupted."""
    lowest_lr: float
    samplers: dict[str, Any] | None
    """Settings of the sampler of the training data; None in a checkpoint of an earlier version."""
    early_stopping: EarlyStoppingState

    @property
    def epoch(self) -> int:
        """The epoch in which the run is, counted from 1."""
        return -(-self.iteration // self.epoch_length)


class _Best(msgspec.Struct):
    """The best validation, in a checkpoint."""

    metric: str | None = None
    value: float = math.inf
    version: int = 1
    iteration: int | None = None


class _Position(msgspec.Struct):
    """The types of the position in a checkpoint; all of them are read here, so that nothing else needs to check."""

    iteration: Annotated[int, Meta(ge=0, lt=2**53)]
    epoch_length: Annotated[int, Meta(ge=1, lt=2**53)]
    owes_validation: bool
    data: int
    samplers: dict[str, Any] | None = None
    best: _Best = msgspec.field(default_factory=_Best)
    owes_train_evaluation: bool = False
    tested: int | None = None
    last_point: dict[str, float] = {}
    early_stopping: EarlyStoppingState = EarlyStoppingState()


def read_progress(path: Path) -> Progress:
    """Read how far a checkpoint is.

    Raises:
        CheckpointError: The file is not a checkpoint of this trainer.
    """
    try:
        content = take_out(read_plain(path))
        check_content(content)
        position = msgspec.convert(content["position"], _Position)
        groups = content["parts"]["optimizer"]["param_groups"]
        lowest_lr = min(float(group["lr"]) for group in groups)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except Exception as error:  # any: the pickle may contain anything
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path} is not a checkpoint of this trainer: {reason}") from error
    return Progress(
        iteration=position.iteration,
        epoch_length=position.epoch_length,
        owes_evaluation=position.owes_validation or position.owes_train_evaluation,
        lowest_lr=lowest_lr,
        samplers=position.samplers,
        early_stopping=position.early_stopping,
    )


def check_content(content: object) -> None:
    """Check that what a checkpoint contains is a mapping.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(content, dict):
        raise TypeError(f"it contains a {type(content).__name__} instead of the state of a training")
