"""Save the state of a training run, and load it for an exact resume."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import CheckpointError, ConfigError
from aimnet2mult.models.torch_file import load_file
from aimnet2mult.models.weights import are_finite
from aimnet2mult.train.checkpoint_folder import checkpoint_path, diverged_path, prune, rename_diverged
from aimnet2mult.train.checkpoint_peek import check_content
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.random_state import random_state, set_random_state
from aimnet2mult.train.repeats import Repeats
from aimnet2mult.train.reporter import Bus
from aimnet2mult.train.restoring import Stateful, restore_part
from aimnet2mult.train.validation import Validation
from telemetry.errors import error_text, format_error
from telemetry.run_folder.atomic_write import atomic_write, sync_folder
from telemetry.run_folder.permissions import make_folder

__all__ = ["Checkpointing", "Stateful", "load_checkpoint", "write_checkpoint"]

WRITE_ERRORS = (OSError, RuntimeError, MemoryError)
"""Errors of `write_checkpoint` that training survives; torch raises RuntimeError if there is too little memory."""

PACKAGES = ("aimnet2mult", "aimnet", "torch", "numpy")
"""Packages whose versions a checkpoint records."""


@dataclass(frozen=True)
class _SavedState:
    """A state dict captured earlier, in place of the object it came from."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: Any, /) -> None:
        raise NotImplementedError


class Checkpointing:
    """The checkpoints of a run: their content, when to write one, and whether one fits the run.

    Each rank has an instance, and all ranks must call the same methods: error sums are reduced over the ranks, and only
    rank 0 writes. A failure to write is reported on the console, and does not stop training.

    Args:
        run: the run folder.
        components: components of the run, whose model, optimizer, schedule and training sums are saved.
        config: configuration of the run; ``checkpoint.keep`` and ``trainer.epochs`` are used.
        validation: the validation, whose progress is saved as well.
        bus: the bus, which is flushed before each checkpoint and provides the last healthy iteration.
        communicator: communicator of the ranks.
        console: console on which problems are reported.
    """

    def __init__(
        self,
        run: Path,
        components: Components,
        config: Config,
        *,
        validation: Validation,
        bus: Bus,
        communicator: Communicator,
        console: Console,
    ) -> None:
        self.problem = ""
        """Why the last checkpoint could not be written, or ""; the same on all ranks."""
        self._run = run
        self._components = components
        self._config = config
        self._validation = validation
        self._bus = bus
        self._communicator = communicator
        self._console = console
        self._data_fingerprint = components.data.fingerprint()
        self._samplers = config.to_dict()["data"]["samplers"]["train"]
        self._last_saved: tuple[int, bool] | None = None
        self._repeats = Repeats()

    def load(self, path: Path) -> int:
        """Restore the run from a checkpoint, and return the iteration after which it was taken.

        Raises:
            CheckpointError: it belongs to another model, optimizer or data set.
            ConfigError: ``trainer.epochs`` is below the epoch of the checkpoint.
        """
        position = load_checkpoint(path, self._state())
        iteration: int = position["iteration"]
        self._check_data(path, position)
        self._check_epochs(iteration, position["epoch_length"])
        self._validation.load_state_dict(position)
        self._last_saved = (iteration, self._validation.pending)
        return iteration

    def _check_data(self, path: Path, position: Mapping[str, Any]) -> None:
        if position.get("samplers", self._samplers) != self._samplers:
            # Batches and groups of other sizes; `data_record` has verified the files.
            return
        expected = (len(self._components.train_loader), self._data_fingerprint)
        if (position["epoch_length"], position["data"]) != expected:
            settings = "" if "samplers" in position else " or data.samplers"
            raise CheckpointError(
                f"{path} was written with different data: the data sets{settings} have changed since then; restore "
                "them, or start a new run with --load"
            )

    def _check_epochs(self, iteration: int, length_before: int) -> None:
        length = len(self._components.train_loader)
        epoch, epochs = -(-iteration // length), self._config.trainer.epochs
        if length != length_before:
            self._console.say(
                f"iterations per epoch: {length} instead of {length_before}; iteration {iteration} is in epoch {epoch}"
            )
        if epoch > epochs:
            raise ConfigError(f"trainer.epochs is {epochs}, but the run is already in epoch {epoch}; increase it")

    def save(self, iteration: int) -> None:
        """Write a checkpoint, unless it would equal the last one or nothing has been trained yet; see `problem`."""
        current = (iteration, self._validation.pending)
        if current == self._last_saved or not iteration:
            return
        # A resume treats everything up to this iteration as published.
        self._bus.flush()
        state = self._state_of_all_ranks()
        self.problem = self._communicator.broadcast("" if self._communicator.rank else self._write(iteration, state))
        # If writing fails, all ranks try again at the next opportunity.
        if not self.problem:
            self._last_saved = current

    def save_diverged(
        self, iteration: int, what: str = "state of the diverged run", *, suspect_from: int | None = None
    ) -> None:
        """Write a state that no run should continue from, and rename the checkpoints since the last healthy iteration.

        Args:
            iteration: the iteration.
            what: what it is, for messages.
            suspect_from: the iteration since which the weights are not to be trusted, if that is known.
        """
        state = self._state_of_all_ranks()
        if self._communicator.rank:
            return
        path = diverged_path(self._run)
        try:
            healthy = self._bus.last_healthy_step
            rename_diverged(self._run, after=healthy if suspect_from is None else min(healthy, suspect_from - 1))
            write_checkpoint(path, state, self._position(iteration))
        except WRITE_ERRORS as error:
            self._console.say(f"warning: cannot save the {what}: {_describe(error, path)}")
        else:
            self._console.say(f"{what}: {path}")

    def _write(self, iteration: int, state: Mapping[str, Stateful]) -> str:
        """Write a checkpoint and remove old ones; return why it could not be written, or ""."""
        path = checkpoint_path(self._run, iteration)
        # A run cannot be resumed from non-finite weights, and a checkpoint of them would evict a good one.
        problem = "" if are_finite(self._components.model) else "the model's weights are not finite"
        if not problem:
            try:
                write_checkpoint(path, state, self._position(iteration))
            except WRITE_ERRORS as error:
                problem = _describe(error, path)
        if problem:
            self._warn(f"no checkpoint at iteration {iteration}", problem)
        else:
            self._prune(path)
        return problem

    def _prune(self, latest: Path) -> None:
        try:
            prune(latest, keep=self._config.checkpoint.keep, last_healthy_step=self._bus.last_healthy_step)
        except OSError as error:
            self._warn("old checkpoints are not removed", _describe(error, latest))
        else:
            self._repeats.end()

    def _warn(self, what: str, why: str) -> None:
        """Print a warning, but rarely if it is the same after each epoch."""
        if self._repeats.add(why):
            times = f" ({self._repeats.count} times in a row)" if self._repeats.count > 1 else ""
            self._console.say(f"warning: {what}: {why}{times}")

    def _position(self, iteration: int) -> dict[str, Any]:
        epoch_length = len(self._components.train_loader)
        return {
            "iteration": iteration,
            "epoch": -(-iteration // epoch_length),
            "epoch_length": epoch_length,
            "data": self._data_fingerprint,
            "samplers": self._samplers,
            **self._validation.state_dict(),
        }

    def _state(self) -> dict[str, Stateful]:
        components = self._components
        state: dict[str, Stateful] = {
            "model": components.model,
            "optimizer": components.optimizer,
            "schedule": components.schedule,
            "sums": components.train_sums,
        }
        loss: Any = components.loss_fn
        return {**state, "loss": loss} if hasattr(loss, "state_dict") and hasattr(loss, "load_state_dict") else state

    def _state_of_all_ranks(self) -> dict[str, Stateful]:
        """Return the state to save; the reduction over the ranks is a collective operation."""
        return {**self._state(), "sums": _SavedState(self._components.train_sums.state_dict())}


def write_checkpoint(path: Path, state: Mapping[str, Stateful], position: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically and durably.

    Args:
        path: the file; its folder is created if necessary.
        state: the objects to save, keyed by name.
        position: the position in the training run, as plain values.

    Raises:
        OSError: the file cannot be written; an earlier version of it is kept.
        RuntimeError: torch cannot serialize the state.
    """
    content = {
        "parts": {name: part.state_dict() for name, part in state.items()},
        "position": dict(position),
        "random": random_state(),
        "versions": _versions(),
    }
    # Serialize to memory first, because torch converts disk-full errors to other types.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    if make_folder(path.parent):
        sync_folder(path.parent.parent)
    atomic_write(path, buffer.getbuffer())


def load_checkpoint(path: Path, state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore objects and random states from a checkpoint, and return its position.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the objects.
    """
    try:
        # Objects copy the state to their devices, except what they keep on the CPU, such as an optimizer's step count.
        content = load_file(path)
        check_content(content)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"cannot read the checkpoint {path}: {reason}") from error
    for name, part in state.items():
        if name == "loss" and name not in content["parts"]:
            # Version 0.1 did not save the state of a loss.
            continue
        with _reporting(path, name):
            restore_part(part, content["parts"][name])
    with _reporting(path, "random"):
        set_random_state(content["random"])
    with _reporting(path, "position"):
        return dict(content["position"])


@contextlib.contextmanager
def _reporting(path: Path, entry: str) -> Iterator[None]:
    """Report any error, because neither torch nor a schedule checks the types of what it restores."""
    try:
        yield
    except Exception as error:
        reason = "it is missing" if isinstance(error, KeyError) else error_text(error)
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {entry}: {reason:.500}") from error


def _describe(error: Exception, path: Path) -> str:
    """Return the message of an error, without the name of the temporary file, which differs each time."""
    reason = error.strerror if isinstance(error, OSError) else None
    return f"cannot write to {path.parent}: {reason or format_error(error)}"


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
