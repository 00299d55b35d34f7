"""The position of a run in its data, as part of a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimnet2mult.config.schema import Config
from aimnet2mult.errors import CheckpointError, ConfigError
from aimnet2mult.train.components import Components

__all__ = ["DataPosition"]


class DataPosition:
    """The position of a run in its epochs, and whether it is one in the same data.

    Args:
        config: configuration of the run.
        components: components of the run, of which the data and their loader are used.
    """

    def __init__(self, config: Config, components: Components) -> None:
        self._epochs = config.trainer.epochs
        self._epoch_length = len(components.train_loader)
        self._data = components.data
        self._fingerprint = components.data.fingerprint()
        self._samplers = config.to_dict()["data"]["samplers"]["train"]

    def describe(self, iteration: int) -> dict[str, Any]:
        """Return the position after an iteration; its keys are part of the format of checkpoints."""
        return {
            "iteration": iteration,
            "epoch": self._epoch_at(iteration),
            "epoch_length": self._epoch_length,
            "data": self._fingerprint,
            "samplers": self._samplers,
        }

    def check(self, path: Path, position: Mapping[str, Any]) -> str:
        """Check that a run can continue from the position in a checkpoint; return a notice if its epochs differ, or "".

        Raises:
            CheckpointError: it was written with other data.
            ConfigError: ``trainer.epochs`` is below its epoch.
        """
        self._check_data(path, position)
        iteration, length = position["iteration"], self._epoch_length
        epoch = self._epoch_at(iteration)
        if epoch > self._epochs:
            raise ConfigError(f"trainer.epochs is {self._epochs}, but the run is already in epoch {epoch}; increase it")
        if length == position["epoch_length"]:
            return ""
        before = position["epoch_length"]
        return f"iterations per epoch: {length} instead of {before}; iteration {iteration} is in epoch {epoch}"

    def _epoch_at(self, iteration: int) -> int:
        return -(-iteration // self._epoch_length)

    def _check_data(self, path: Path, position: Mapping[str, Any]) -> None:
        if position.get("samplers", self._samplers) != self._samplers:
            # Batches and groups of other sizes; `data_record` has verified the files.
            return
        same_length = position["epoch_length"] == self._epoch_length
        if not (same_length and self._is_same(position["data"])):
            settings = "" if "samplers" in position else " or data.samplers"
            raise CheckpointError(
                f"{path} was written with different data: the data sets{settings} have changed since then; restore "
                "them, or start a new run with --load"
            )

    def _is_same(self, fingerprint: int) -> bool:
        # Versions before 0.2 stored a checksum of all values.
        return fingerprint == self._fingerprint or fingerprint == self._data.content_checksum()
