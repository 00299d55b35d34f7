"""Validate the model during training, and keep the weights of the best validation."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.models.checkpoint_folder import best_path
from aimnet2mult.models.description import BestRecord
from aimnet2mult.models.weights import read_state, save_weights
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.early_stopping import EarlyStopping
from aimnet2mult.train.evaluation_pass import EvaluationPass
from aimnet2mult.train.repeats import Repeats
from aimnet2mult.train.validation_metrics import ValidationMetrics
from telemetry.run_folder.permissions import make_folder

__all__ = ["BestValidation", "Validation"]

BEST_VERSION = 2
"""Version of the state of the best validation; in version 1, the loss was the mean of the batch losses."""


class BestValidation:
    """The best value of a validation metric so far: the lowest or the highest, depending on the metric.

    Args:
        metric: name of the metric, such as ``loss``; ``val_loss`` and ``val/loss`` are accepted too. None tracks
            nothing.
        metrics: the validation metrics.

    Raises:
        ConfigError: ``metric`` is unknown, or the validation data have no labels for it.
    """

    def __init__(self, metric: str | None, metrics: ValidationMetrics) -> None:
        self.metric = None if metric is None else metrics.find(metric, "checkpoint.best")
        self.iteration: int | None = None
        """Iteration of the weights in ``best.pt``, on rank 0; None if there are none, or in runs of version 0.1."""
        self._sign = -1 if self.metric is not None and metrics.is_better_when_higher(self.metric) else 1
        self._value = math.inf

    @property
    def is_known(self) -> bool:
        """Whether there has been a best value."""
        return self._value < math.inf

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Record a validation if it is the best so far, and return whether it is; a missing or NaN value never is."""
        if self.metric is None:
            return False
        value = self._sign * metrics.get(self.metric, math.nan)
        if not value < self._value:
            return False
        self._value = value
        return True

    def forget(self) -> None:
        """Start the search again."""
        self._value, self.iteration = math.inf, None

    def record(self, iteration: int) -> BestRecord:
        """Return the best validation, of this iteration, for the file of its weights."""
        return BestRecord(iteration=iteration, metric=str(self.metric), value=self._sign * self._value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"metric": self.metric, "value": self._value, "version": BEST_VERSION, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore the state from `state_dict`, unless it is for another metric; return whether it is comparable.

        Version 0.1 computed the loss in another way.
        """
        if state.get("metric") != self.metric:
            return True
        if self.metric == "loss" and state.get("version", 1) < BEST_VERSION:
            return not math.isfinite(state.get("value", math.inf))
        self._value, self.iteration = state.get("value", math.inf), state.get("iteration")
        return True


class Validation:
    """The validations of a run: each publishes metrics, steps the schedule, and may write ``best.pt`` on rank 0.

    Without validation data, nothing happens. If the run has to stop during a validation, the validation is interrupted
    and stays pending; repeat it after the resume, before any training. All ranks must call `run` at the same
    iterations.

    Args:
        run: the run folder.
        components: components of the run, whose model is validated.
        evaluation: the passes over the validation data; None without such data.
        config: configuration of the run; ``checkpoint.best`` names the metric of the best validation, and
            ``trainer.early_stopping`` the one that has to improve.
        communicator: communicator of the ranks.
        console: console on which problems are reported.

    Raises:
        ConfigError: one of these is not a validation metric, or the validation data have no labels for it.
    """

    def __init__(
        self,
        run: Path,
        components: Components,
        evaluation: EvaluationPass | None,
        config: Config,
        *,
        communicator: Communicator,
        console: Console,
    ) -> None:
        self.pending = False
        """Whether the last validation was interrupted and has to be repeated."""
        self.best = BestValidation(config.checkpoint.best, components.val_metrics)
        self._is_resumed = False
        self._run = run
        self._components = components
        self._evaluation = evaluation
        self._communicator = communicator
        self._console = console
        self._repeats = Repeats()
        self._early_stopping = EarlyStopping(config.trainer.early_stopping, components.val_metrics)

    def run(self, iteration: int) -> None:
        """Validate the model after a training iteration; if interrupted, only set `pending`."""
        if self._evaluation is None:
            return
        components = self._components
        with components.evaluation_weights():
            published = self._evaluation.run(iteration)
        self.pending = published is None
        if published is None:
            return
        # The metrics wait for the device.
        needed = components.schedule.needs_validation or {self.best.metric, self._early_stopping.metric} != {None}
        metrics = self._evaluation.metrics(published) if needed else {}
        components.schedule.step_validation(metrics)
        self._early_stopping.update(metrics, iteration)
        if self._is_resumed and self.best.metric is not None and self._is_best_abandoned():
            self.best.forget()
        self._is_resumed = False
        if self.best.update(metrics) and not self._communicator.rank:
            self._save_best(iteration)

    @property
    def stop_reason(self) -> str:
        """Why the training should finish, because a metric no longer improves; otherwise empty."""
        return self._early_stopping.reason(len(self._components.train_loader))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`; its keys are part of the format of checkpoints.

        ``owes_validation`` is whether a validation is `pending`; ``best`` and ``early_stopping`` are the states of the
        best validation and of the search for an improvement.
        """
        state = {"owes_validation": self.pending, "best": self.best.state_dict()}
        return {**state, "early_stopping": self._early_stopping.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        self.pending = state["owes_validation"]
        self._is_resumed = True
        self._early_stopping.load_state_dict(state.get("early_stopping", {}))
        # Checkpoints of early versions have no best value.
        if not self.best.load_state_dict(state.get("best", {})):
            self._console.say(
                "the best val/loss so far was a mean over batches, which depends on the batch size: "
                "the search for the best weights starts again, and the next validation replaces best.pt"
            )

    def _is_best_abandoned(self) -> bool:
        """Return whether an attempt wrote ``best.pt`` after the iteration from which the run was resumed.

        Those weights must not remain if no later validation is as good as the one that they have replaced.
        """
        found = None
        if not self._communicator.rank:
            with suppress(OSError, ValueError):
                found = read_state(best_path(self._run)).best
        is_other = found is not None and found.iteration != self.best.iteration
        return bool(self._communicator.all_reduce_max([int(is_other)])[0])

    def _save_best(self, iteration: int) -> None:
        path = best_path(self._run)
        try:
            make_folder(path.parent)
            with self._components.evaluation_weights():
                save_weights(
                    self._components.model,
                    self._components.description,
                    path,
                    mode=None,
                    best=self.best.record(iteration),
                )
        except OSError as error:
            # The name of the temporary file, which is part of the message, differs each time.
            if self._repeats.add(error.strerror or str(error)):
                self._console.say(
                    f"warning: cannot save the weights of the best validation: {error}; training continues"
                )
        else:
            self.best.iteration = iteration
            self._repeats.end()
