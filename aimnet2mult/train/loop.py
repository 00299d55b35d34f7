"""The loop of a training run: when it validates, saves and stops."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Engine, Events

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.rank_info import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.errors import CheckpointError, ConfigError
from aimnet2mult.metrics.error_sums import Slot
from aimnet2mult.metrics.statistics import VALIDATION, metric_info, statistics
from aimnet2mult.models.weights import are_finite, save_weights
from aimnet2mult.train import checkpointing as checkpoint
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.engine import build_trainer, build_validator, epoch_length, total_iterations
from aimnet2mult.train.reporter import Bus, Reporter
from aimnet2mult.train.validation import Best

__all__ = ["Outcome", "Training"]

Outcome = Literal["finished", "preempted", "diverged"]


@dataclass(frozen=True)
class _Taken:
    """A state as it was."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: Any) -> None:
        raise NotImplementedError


class Training:
    """A training run from where it stands to its end, or to where it is asked to stop.

    Everything about an epoch's end (its statistics, validation, checkpoint) is done before a stop is heeded,
    except that a validation is broken off; it is then made up for when the run goes on.

    Each rank has one, and all do the same at the same iteration; the first alone writes checkpoints.
    """

    def __init__(
        self,
        config: Config,
        parts: Components,
        bus: Bus,
        *,
        folder: Path,
        ranks: Communicator,
        agreement: StopConsensus,
        progress: Console,
    ) -> None:
        # What goes wrong is raised; ignite would also log it.
        logging.getLogger("ignite").setLevel(logging.CRITICAL)
        self._config = config
        self._parts = parts
        self._bus = bus
        self._folder = folder
        self._ranks = ranks
        self._agreement = agreement
        self._progress = progress
        self._data = parts.data.fingerprint()
        self._owes_validation = False
        self._low_lr = False
        self._best = Best(config.checkpoint.best, metric_info(parts.labels, config.fidelity_names, VALIDATION))
        self._saved: tuple[int, bool] | None = None
        self.reporter = Reporter(
            bus,
            train_sums=parts.train_sums,
            val_sums=parts.val_sums,
            labels=parts.labels,
            fidelity_names=config.fidelity_names,
            optimizer=parts.optimizer,
        )
        self.trainer = self._build_trainer()
        self.validator = build_validator(parts.model, parts.loss_fn, parts.val_sums, device=parts.device)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._break_off_validation)
        self._stand_at(0)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError or ConfigError if it does not fit."""
        position = checkpoint.load(path, self._state(), device=self._parts.device)
        if (position["epoch_length"], position["data"]) != (len(self._parts.train_loader), self._data):
            raise CheckpointError(f"{path} is of a training on other data: the data sets have changed since")
        if position["epoch"] > self._config.trainer.epochs:
            raise ConfigError(
                f"trainer.epochs is {self._config.trainer.epochs}, but the run is in epoch {position['epoch']} already"
            )
        self._stand_at(position["iteration"])
        self._owes_validation = position["owes_validation"]
        self._best.load_state_dict(position.get("best", {}))
        self._saved = (position["iteration"], self._owes_validation)

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested; a checkpoint says where.

        A training that has diverged goes back to the newest checkpoint from before, if it is to stop for that: the
        later ones are set aside, and its state is saved beside them.
        """
        state = self.trainer.state
        if self._owes_validation:
            self._validate(self.trainer)
        if state.iteration == total_iterations(self.trainer):
            epochs = self._config.trainer.epochs
            self._progress.say(f"all {epochs} epochs are done already; to go on, set trainer.epochs to more")
            # The validation that was owed may tell.
            self._bus.flush()
            self._agreement.should_stop(now=True)
        elif not self._ends_early() and not self._agreement.should_stop(now=True):
            self._agreement.reset_interval()
            self.trainer.run(self._parts.train_loader)
        if self._agreement.diverged:
            self._keep_diverged()
            return "diverged"
        self._save()
        done = (state.iteration == total_iterations(self.trainer) or self._low_lr) and not self._owes_validation
        return "finished" if done else "preempted"

    def _build_trainer(self) -> Engine:
        limits, parts = self._config.trainer, self._parts
        trainer = build_trainer(
            parts.model,
            parts.optimizer,
            parts.loss_fn,
            parts.train_sums,
            device=parts.device,
            clip_value=limits.clip_grad_value,
            clip_norm=limits.clip_grad_norm,
            norm_due=self.reporter.is_due,
            ranks=self._ranks,
        )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._order)
        # Before what follows, so that what is published is what the iteration was done with.
        self.reporter.attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)
        return trainer

    def _stand_at(self, iteration: int) -> None:
        self.trainer.load_state_dict(
            {
                "iteration": iteration,
                "epoch_length": len(self._parts.train_loader),
                "max_epochs": self._config.trainer.epochs,
            }
        )
        if self._ranks.rank:
            # Or what is dropped out would be the same on all ranks.
            key = np.random.SeedSequence([self._config.seed, self._ranks.rank, iteration])
            torch.manual_seed(int(key.generate_state(1)[0]))

    def _order(self, engine: Engine) -> None:
        """Set the order of the epoch. ignite would start a resumed epoch at its first batch."""
        self._parts.sampler.set_epoch(engine.state.epoch - 1)
        self._parts.sampler.set_start(engine.state.iteration % epoch_length(engine))

    def _complete_iteration(self, engine: Engine) -> None:
        self._parts.schedule.step_iteration()
        step, every = engine.state.iteration, self._config.log_frequency.val
        if every is not None and step % every == 0:
            self._validate(engine)
        self._progress.iteration(step, total_iterations(engine), self.reporter.latest, self._bus.alerts)
        ends_epoch = step % epoch_length(engine) == 0
        # ignite, told to terminate here, would leave out the end of the epoch, and so would the resumed run.
        if not ends_epoch and self._agreement.should_stop():
            engine.terminate()

    def _complete_epoch(self, engine: Engine) -> None:
        self._parts.schedule.step_epoch()
        if self._config.log_frequency.val is None:
            self._validate(engine)
        self._save()
        every, step = self._config.log_frequency.val, engine.state.iteration
        latest = self.reporter.latest
        if every is not None and step % every:
            # The newest validation was at an earlier iteration than this line is about.
            latest = {name: value for name, value in latest.items() if not name.startswith("val/")}
        self._progress.epoch(engine.state.epoch, step, latest)
        if self._agreement.should_stop(now=True) or self._ends_early():
            engine.terminate()

    def _ends_early(self) -> bool:
        """Say whether training ends with an epoch that is complete, as a learning rate has become too small."""
        limit, groups = self._config.trainer.stop_below_lr, self._parts.optimizer.param_groups
        state = self.trainer.state
        # At the very beginning a schedule may be warming up.
        mid_epoch = not state.iteration or state.iteration % epoch_length(self.trainer)
        if limit is None or self._owes_validation or mid_epoch:
            return False
        lowest = min(float(group["lr"]) for group in groups)
        self._low_lr = lowest < limit
        if self._low_lr and state.iteration < total_iterations(self.trainer):
            self._progress.say(f"the learning rate {lowest:.3g} is below trainer.stop_below_lr {limit:.3g}: finished")
        return self._low_lr

    def _validate(self, engine: Engine) -> None:
        sums, schedule = self._parts.val_sums, self._parts.schedule
        sums.reset(Slot.EPOCH)
        self._owes_validation = False
        self._agreement.reset_interval()
        self.validator.run(self._parts.val_loader)
        self._agreement.reset_interval()
        if self._owes_validation:
            return
        # A stopped run is in the epoch that it goes on with, a loaded one counts the epochs that are complete.
        epoch = -(-engine.state.iteration // epoch_length(engine))
        published = self.reporter.publish_validation(engine.state.iteration, epoch)
        metrics = {}
        if schedule.needs_validation or self._best.metric is not None:
            slot = published.wait()[Slot.EPOCH]
            metrics = statistics(slot, self._parts.labels, self._config.fidelity_names, VALIDATION)
        schedule.step_validation(metrics)
        if self._best.improved(metrics) and not self._ranks.rank:
            self._write_best()

    def _break_off_validation(self, validator: Engine) -> None:
        if validator.state.iteration < len(self._parts.val_loader) and self._agreement.should_stop():
            self._owes_validation = True
            validator.terminate()

    def _save(self) -> None:
        state = self.trainer.state
        now = (state.iteration, self._owes_validation)
        if now == self._saved or not state.iteration:
            return
        # A resume from here takes everything up to here as published.
        self._bus.flush()
        state = self._common_state()
        # A checkpoint that could not be written is tried again at the next place, on all ranks alike.
        if self._ranks.broadcast(self._ranks.rank > 0 or self._write_checkpoint(state)):
            self._saved = now

    def _write_checkpoint(self, state: Mapping[str, checkpoint.Stateful]) -> bool:
        step, keep = self.trainer.state.iteration, self._config.checkpoint.keep
        # A resume from there would be no use, and it would push out one that is good.
        if not are_finite(self._parts.model):
            self._progress.say(f"warning: no checkpoint at iteration {step}: the model's weights are not finite")
            return False
        try:
            checkpoint.save(
                self._folder,
                step,
                state,
                position=self._position(),
                keep=keep,
                last_healthy_step=self._bus.last_healthy_step,
            )
        except OSError as error:
            self._progress.say(f"warning: no checkpoint at iteration {step}: {error}")
            return False
        return True

    def _keep_diverged(self) -> None:
        state = self._common_state()
        if self._ranks.rank:
            return
        try:
            checkpoint.set_aside(self._folder, after=self._bus.last_healthy_step)
            path = checkpoint.save_diverged(
                self._folder, self.trainer.state.iteration, state, position=self._position()
            )
        except OSError as error:
            self._progress.say(f"warning: the state of the diverged training could not be kept: {error}")
        else:
            self._progress.say(f"the state of the diverged training: {path}")

    def _position(self) -> dict[str, Any]:
        state = self.trainer.state
        return {
            "epoch": -(-state.iteration // epoch_length(self.trainer)),
            "epoch_length": state.epoch_length,
            "data": self._data,
            "owes_validation": self._owes_validation,
            "best": self._best.state_dict(),
        }

    def _common_state(self) -> dict[str, checkpoint.Stateful]:
        """Return what is to be saved. All ranks add up their sums for it, whatever the first then does with it."""
        return {**self._state(), "sums": _Taken(self._parts.train_sums.state_dict())}

    def _write_best(self) -> None:
        path = self._folder / checkpoint.FOLDER / "best.pt"
        try:
            path.parent.mkdir(exist_ok=True)
            save_weights(self._parts.model, path)
        except OSError as error:
            self._progress.say(f"warning: the best weights are not kept: {error}; training goes on")

    def _state(self) -> dict[str, checkpoint.Stateful]:
        parts = self._parts
        return {
            "model": parts.model,
            "optimizer": parts.optimizer,
            "schedule": parts.schedule,
            "sums": parts.train_sums,
        }
