"""When the state of a training run is saved, what belongs to it, and which checkpoints fit the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.models.checkpoint_folder import checkpoint_path, diverged_path, prune, rename_diverged
from aimnet2mult.models.weights import are_finite
from aimnet2mult.train.checkpoint_file import load_checkpoint, write_checkpoint
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.data_position import DataPosition
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.repeats import Repeats
from aimnet2mult.train.reporter import Bus
from aimnet2mult.train.restoring import Stateful
from telemetry.errors import format_error

__all__ = ["Checkpointing"]

WRITE_ERRORS = (OSError, RuntimeError, MemoryError)
"""Errors of `write_checkpoint` that training survives; torch raises RuntimeError if there is too little memory."""


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
        evaluations: the evaluations, whose progress is saved as well.
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
        evaluations: Evaluations,
        bus: Bus,
        communicator: Communicator,
        console: Console,
    ) -> None:
        self.problem = ""
        """Why the last checkpoint could not be written, or ""; the same on all ranks."""
        self._run = run
        self._components = components
        self._config = config
        self._evaluations = evaluations
        self._bus = bus
        self._communicator = communicator
        self._console = console
        self._position = DataPosition(config, components)
        self._last_saved: tuple[int, dict[str, Any]] | None = None
        self._repeats = Repeats()

    def load(self, path: Path) -> int:
        """Restore the run from a checkpoint, and return the iteration after which it was taken.

        Raises:
            CheckpointError: it belongs to another model, optimizer or data set.
            ConfigError: ``trainer.epochs`` is below the epoch of the checkpoint.
        """
        position = load_checkpoint(path, self._state())
        iteration: int = position["iteration"]
        if notice := self._position.check(path, position):
            self._console.say(notice)
        self._evaluations.load_state_dict(position)
        self._last_saved = (iteration, self._evaluations.state_dict())
        return iteration

    def save(self, iteration: int) -> None:
        """Write a checkpoint, unless it would equal the last one or nothing has been trained yet; see `problem`."""
        current = (iteration, self._evaluations.state_dict())
        if current == self._last_saved or not iteration:
            return
        # A resume treats everything up to this iteration as published. Plots are not worth waiting for: if the process
        # is killed while they are drawn, they are missing.
        self._bus.flush(media=False)
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
            write_checkpoint(path, state, self._position_at(iteration), self._components.description)
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
                write_checkpoint(path, state, self._position_at(iteration), self._components.description)
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

    def _position_at(self, iteration: int) -> dict[str, Any]:
        return {**self._position.describe(iteration), **self._evaluations.state_dict()}

    def _state(self) -> dict[str, Stateful]:
        components = self._components
        parts: dict[str, Stateful | None] = {
            "model": components.model,
            "optimizer": components.optimizer,
            "schedule": components.schedule,
            "average": components.average,
        }
        if isinstance(components.loss_fn, Stateful):
            parts["loss"] = components.loss_fn
        return {name: part for name, part in parts.items() if part is not None} | {"sums": components.train_sums}

    def _state_of_all_ranks(self) -> dict[str, Stateful]:
        """Return the state to save; the reduction over the ranks is a collective operation."""
        return {**self._state(), "sums": _SavedState(self._components.train_sums.state_dict())}


def _describe(error: Exception, path: Path) -> str:
    """Return the message of an error, without the name of the temporary file, which differs each time."""
    reason = error.strerror if isinstance(error, OSError) else None
    return f"cannot write to {path.parent}: {reason or format_error(error)}"
