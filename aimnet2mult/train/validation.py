"""Validate the model during training, and keep the weights of the best validation."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.metrics.error_sums import Slot
from aimnet2mult.metrics.statistics import VALIDATION, statistics
from aimnet2mult.models.weights import save_weights
from aimnet2mult.train.checkpoint_folder import best_path
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.early_stopping import EarlyStopping
from aimnet2mult.train.engine import build_validator
from aimnet2mult.train.repeats import Repeats
from aimnet2mult.train.reporter import Reporter
from aimnet2mult.train.skipped_structures import SkippedStructures
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
        self._sign = -1 if self.metric is not None and metrics.is_better_when_higher(self.metric) else 1
        self._value = math.inf

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Record a validation if it is the best so far, and return whether it is; a missing or NaN value never is."""
        if self.metric is None:
            return False
        value = self._sign * metrics.get(self.metric, math.nan)
        if not value < self._value:
            return False
        self._value = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"metric": self.metric, "value": self._value, "version": BEST_VERSION}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore the state from `state_dict`, unless it is for another metric; return whether it is comparable.

        Version 0.1 computed the loss in another way.
        """
        if state.get("metric") != self.metric:
            return True
        if self.metric == "loss" and state.get("version", 1) < BEST_VERSION:
            return not math.isfinite(state.get("value", math.inf))
        self._value = state.get("value", math.inf)
        return True


class Validation:
    """The validations of a run: each publishes metrics, steps the schedule, and may write ``best.pt`` on rank 0.

    If the run has to stop during a validation, the validation is interrupted and stays pending; repeat it after the
    resume, before any training. All ranks must call `run` at the same iterations.

    Args:
        run: the run folder.
        components: components of the run, whose model is validated.
        config: configuration of the run; ``checkpoint.best`` names the metric of the best validation, and
            ``trainer.early_stopping`` the one that has to improve.
        reporter: publisher of the metrics.
        consensus: agreement of the ranks, after each batch, on whether to stop.
        communicator: communicator of the ranks.
        console: console on which problems are reported.

    Raises:
        ConfigError: one of these is not a validation metric, or the validation data have no labels for it.
    """

    def __init__(
        self,
        run: Path,
        components: Components,
        config: Config,
        *,
        reporter: Reporter,
        consensus: StopConsensus,
        communicator: Communicator,
        console: Console,
    ) -> None:
        self.pending = False
        """Whether the last validation was interrupted and has to be repeated."""
        self._run = run
        self._components = components
        self._fidelity_names = config.fidelity_names
        self._reporter = reporter
        self._consensus = consensus
        self._communicator = communicator
        self._console = console
        self._repeats = Repeats()
        self._best = BestValidation(config.checkpoint.best, components.val_metrics)
        self._early_stopping = EarlyStopping(config.trainer.early_stopping, components.val_metrics)
        self._validator = build_validator(
            components.model, components.loss_fn, components.val_sums, device=components.device
        )
        self._skipped = SkippedStructures(
            components.data, components.val_sampler, device=components.device, communicator=communicator
        )
        self._validator.add_event_handler(Events.ITERATION_COMPLETED, self._record_skipped)
        self._validator.add_event_handler(Events.ITERATION_COMPLETED, self._interrupt_if_stopping)

    def run(self, iteration: int) -> None:
        """Validate the model after a training iteration; if interrupted, only set `pending`."""
        self._components.val_sums.reset(Slot.EPOCH)
        self.pending = False
        self._consensus.reset_interval()
        self._validator.run(self._components.val_loader)
        self._consensus.reset_interval()
        if self.pending:
            return
        metrics = self._publish(iteration)
        self._components.schedule.step_validation(metrics)
        self._early_stopping.update(metrics, iteration)
        if self._best.update(metrics) and not self._communicator.rank:
            self._save_best()

    @property
    def stop_reason(self) -> str:
        """Why the training should finish, because a metric no longer improves; otherwise empty."""
        return self._early_stopping.reason(len(self._components.train_loader))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`; its keys are part of the format of checkpoints.

        ``owes_validation`` is whether a validation is `pending`; ``best`` and ``early_stopping`` are the states of the
        best validation and of the search for an improvement.
        """
        state = {"owes_validation": self.pending, "best": self._best.state_dict()}
        return {**state, "early_stopping": self._early_stopping.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        self.pending = state["owes_validation"]
        self._early_stopping.load_state_dict(state.get("early_stopping", {}))
        # Checkpoints of early versions have no best value.
        if not self._best.load_state_dict(state.get("best", {})):
            self._console.say(
                "the best val/loss so far was a mean over batches, which depends on the batch size: "
                "the search for the best weights starts again, and the next validation replaces best.pt"
            )

    def _record_skipped(self, validator: Engine) -> None:
        self._skipped.record(validator.state.iteration - 1, validator.state.finite)  # type: ignore[attr-defined]

    def _interrupt_if_stopping(self, validator: Engine) -> None:
        if validator.state.iteration < len(self._components.val_loader) and self._consensus.should_stop():
            self.pending = True
            validator.terminate()

    def _publish(self, iteration: int) -> dict[str, float]:
        """Publish the validation, and return its metrics if anything here needs them; that waits for the device."""
        components = self._components
        epoch = -(-iteration // len(components.train_loader))
        published = self._reporter.publish_validation(iteration, epoch, self._skipped)
        if not components.schedule.needs_validation and self._best.metric is self._early_stopping.metric is None:
            return {}
        slot, loss = published.wait()[Slot.EPOCH], components.val_sums.layout.loss
        return statistics(slot, components.labels, self._fidelity_names, VALIDATION, loss)

    def _save_best(self) -> None:
        path = best_path(self._run)
        try:
            make_folder(path.parent)
            save_weights(self._components.model, path, mode=None)
        except OSError as error:
            # The name of the temporary file, which is part of the message, differs each time.
            if self._repeats.add(error.strerror or str(error)):
                self._console.say(
                    f"warning: cannot save the weights of the best validation: {error}; training continues"
                )
        else:
            self._repeats.end()
