"""Read how far a checkpoint is, without importing torch."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aimnet2mult.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Progress", "read_progress"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the training was when a checkpoint was written."""

    iteration: int
    epoch_length: int
    """Number of iterations per epoch."""
    owes_validation: bool
    """Whether the last validation was interrupted."""
    lowest_lr: float
    samplers: dict[str, Any] | None
    """Settings of the sampler of the training data; None in a checkpoint of an earlier version."""

    @property
    def epoch(self) -> int:
        """The epoch in which the run is, counted from 1."""
        return -(-self.iteration // self.epoch_length)


def read_progress(path: Path) -> Progress:
    """Read how far a checkpoint is.

    Raises:
        CheckpointError: The file is not a checkpoint of this trainer.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                content = _Unpickler(file).load()
        position = content["position"]
        return Progress(
            iteration=position["iteration"],
            epoch_length=position["epoch_length"],
            owes_validation=position["owes_validation"],
            lowest_lr=min(float(group["lr"]) for group in content["parts"]["optimizer"]["param_groups"]),
            samplers=position.get("samplers"),
        )
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer: {error!r}") from error


class _Unpickler(pickle.Unpickler):
    """Reads plain values, and None for everything else; runs no code of the file."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        known = (module_name, global_name) == ("collections", "OrderedDict")
        return OrderedDict if known else lambda *_, **__: None

    def persistent_load(self, _: Any) -> None:
        """Skip the data of a tensor."""
