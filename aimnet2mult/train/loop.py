"""The training loop: iterations and epochs, and when to validate, save and stop."""

import logging
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.models.weights import are_finite
from aimnet2mult.train.bad_steps import BadStepReport, BadSteps
from aimnet2mult.train.checkpointing import Checkpointing
from aimnet2mult.train.completion import describe_low_lr
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.engine import build_trainer, epoch_length, total_iterations
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.learner import build_loss
from aimnet2mult.train.outcome import Outcome
from aimnet2mult.train.reporter import Bus, Reporter
from aimnet2mult.train.scheduled_values import lr_groups

__all__ = ["Training", "build_training"]


class Training:
    """The training of a run, from the current position to the end or until the ranks agree to stop.

    A stop takes effect between iterations; at the end of an epoch, only after its statistics, validation and
    checkpoint. Only a running evaluation is interrupted; it is repeated on resume.

    Every rank has an instance, and all ranks perform the same operations in each iteration. `build_training` creates an
    instance with its collaborators.
    """

    def __init__(
        self,
        config: Config,
        components: Components,
        *,
        reporter: Reporter,
        evaluations: Evaluations,
        checkpointing: Checkpointing,
        bad_steps: BadSteps,
        bus: Bus,
        communicator: Communicator,
        consensus: StopConsensus,
        console: Console,
    ) -> None:
        self._config = config
        self._components = components
        self._reporter = reporter
        self._evaluations = evaluations
        self._checkpointing = checkpointing
        self._bad_steps = bad_steps
        self._bus = bus
        self._communicator = communicator
        self._consensus = consensus
        self._console = console
        self._finished_early = False
        self._trainer = self._build_trainer()
        self._set_position(0)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: it belongs to another model, optimizer or data set.
            ConfigError: ``trainer.epochs`` is below the epoch of the checkpoint.
        """
        self._set_position(self._checkpointing.load(path))

    def run(self) -> Outcome:
        """Train to the end of the run, or until the ranks agree to stop, and write a checkpoint.

        If the run stops because it has diverged, its state is saved separately, and a later resume starts from the
        newest checkpoint before the divergence.
        """
        state, total = self._trainer.state, total_iterations(self._trainer)
        if self._evaluations.pending:
            self._evaluations.repeat_pending(state.iteration)
            self._publish_last_point(self._trainer)
        if state.iteration == total:
            epochs = self._config.trainer.epochs
            is_tested = self._evaluations.is_tested(state.iteration)
            rest = "; increase trainer.epochs to continue" if is_tested else ", only the test"
            self._console.say(f"nothing left to train after epoch {epochs}{rest}")
            # The pending validation may have revealed a divergence: exchanging it sets `consensus.diverged`.
            self._bus.flush()
            self._consensus.should_stop(now=True)
        elif not self._finish_early() and not self._consensus.should_stop(now=True):
            self._consensus.reset_interval()
            self._trainer.run(self._components.train_loader)
        complete = (state.iteration == total or self._finished_early) and not self._evaluations.pending
        if complete and not self._consensus.diverged and not self._consensus.failed:
            # The checkpoint of the last epoch is written already: a resume continues here.
            complete = self._evaluations.test(state.iteration)
        if self._consensus.diverged:
            self._checkpointing.save_diverged(state.iteration)
            return Outcome("diverged")
        if self._consensus.failed:
            # Another rank may have been the first to see the flags.
            self._bad_steps.wait()
            _save_failed(self._checkpointing, state.iteration, self._bad_steps.suspect_from)
            return Outcome("not finite", self._bad_steps.failure)
        self._save(state.iteration)
        if not complete:
            return Outcome("preempted")
        if self._bad_steps.all_skipped:
            return Outcome("not finite", "no training step was applied: loss or gradient was never finite")
        if self._checkpointing.problem:
            reason = f"no checkpoint at iteration {state.iteration}: {self._checkpointing.problem}"
            return Outcome("not saved" if are_finite(self._components.model) else "not finite", reason)
        return Outcome("finished")

    def _build_trainer(self) -> Engine:
        trainer_config, components = self._config.trainer, self._components
        trainer = build_trainer(
            components.model,
            components.optimizer,
            components.loss_fn,
            components.train_sums,
            device=components.device,
            clip_value=trainer_config.clip_grad_value,
            clip_norm=trainer_config.clip_grad_norm,
            communicator=self._communicator,
            micro_batches=trainer_config.micro_batches,
            average=components.average,
        )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._set_epoch_order)
        set_iteration = getattr(components.loss_fn, "set_iteration", None)
        if set_iteration is not None:
            # Losses of other packages may have this method, too.
            trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: set_iteration(engine.state.iteration))
        # Publish first, while the learning rate is still the one used in the iteration.
        self._reporter.attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)
        return trainer

    def _set_position(self, iteration: int) -> None:
        self._trainer.load_state_dict(
            {
                "iteration": iteration,
                "epoch_length": len(self._components.train_loader),
                "max_epochs": self._config.trainer.epochs,
            }
        )
        if self._communicator.rank:
            # Otherwise dropout masks would be identical on all ranks.
            seed = np.random.SeedSequence([self._config.seed, self._communicator.rank, iteration])
            torch.manual_seed(int(seed.generate_state(1)[0]))

    def _set_epoch_order(self, engine: Engine) -> None:
        """Set the order of the epoch, and its first batch: ignite would start a resumed epoch from the beginning."""
        self._components.sampler.set_epoch(engine.state.epoch - 1)
        self._components.sampler.set_start(engine.state.iteration % epoch_length(engine))

    def _complete_iteration(self, engine: Engine) -> None:
        iteration, every = engine.state.iteration, self._config.log_frequency.val
        self._bad_steps.add(iteration, engine.state.applied)  # type: ignore[attr-defined] # see build_trainer
        self._components.schedule.step_iteration()
        validates = every is not None and iteration % every == 0
        if validates:
            self._validate(iteration)
        total = total_iterations(engine)
        self._console.iteration(iteration, total, self._reporter.latest, self._bus.alerts)
        ends_epoch = iteration % epoch_length(engine) == 0
        # If the trainer were terminated here, ignite would skip the end of the epoch, and so would the resumed run.
        if ends_epoch:
            return
        if validates:
            self._publish_last_point(engine)
        if self._consensus.should_stop(failed=bool(self._bad_steps.failure)) or (validates and self._finish_early()):
            engine.terminate()
        elif self._consensus.checkpoint_due or iteration % (self._config.checkpoint.every_iterations or total) == 0:
            self._bad_steps.wait()
            self._save(iteration)

    def _complete_epoch(self, engine: Engine) -> None:
        # The checkpoint will wait for the device as well.
        self._bad_steps.wait()
        self._components.schedule.step_epoch()
        iteration, every = engine.state.iteration, self._config.log_frequency.val
        if every is None:
            self._validate(iteration)
        with self._reporter.paused():
            self._evaluations.complete_epoch(engine.state.epoch, iteration)
        # Before the checkpoint, from which a resumed run would have nothing left to train.
        self._publish_last_point(engine)
        self._save(iteration)
        latest = self._reporter.latest
        if every is not None and iteration % every:
            # The newest validation is older than this line.
            latest = {name: value for name, value in latest.items() if not name.startswith("val/")}
        self._console.epoch(engine.state.epoch, iteration, latest)
        failed = bool(self._bad_steps.failure)
        if self._consensus.should_stop(now=True, failed=failed) or self._finish_early():
            engine.terminate()

    def _validate(self, iteration: int) -> None:
        with self._reporter.paused():
            self._evaluations.validate(iteration)

    def _save(self, iteration: int) -> None:
        with self._reporter.paused():
            self._checkpointing.save(iteration)
        self._consensus.checkpoint_written()

    def _publish_last_point(self, engine: Engine) -> None:
        """Publish a point of the training if it ends early with this iteration."""
        if self._describe_early_end():
            self._reporter.publish_last(engine)

    def _describe_early_end(self) -> str:
        return "" if self._evaluations.pending else self._evaluations.stop_reason or self._describe_low_lr()

    def _finish_early(self) -> bool:
        """Mark the run as finished if there is a reason to, and return whether it is."""
        reason = self._describe_early_end()
        self._finished_early = bool(reason)
        if reason and self._trainer.state.iteration < total_iterations(self._trainer):
            self._console.say(f"{reason}: finished")
        return self._finished_early

    def _describe_low_lr(self) -> str:
        """Return that a learning rate is too low, or ""; only at the end of an epoch, after its validation."""
        iteration = self._trainer.state.iteration
        # At the start, a schedule may still be warming up.
        if not iteration or iteration % epoch_length(self._trainer):
            return ""
        lowest = min(float(group["lr"]) for group in self._components.optimizer.param_groups)
        return describe_low_lr(self._config, lowest)


def _save_failed(checkpointing: Checkpointing, iteration: int, suspect_from: int | None) -> None:
    """Save the state after skipped steps; after many in a row, the weights may have become too large."""
    if suspect_from is None:
        checkpointing.save(iteration)
    else:
        what = "set aside, since the weights may have become too large"
        checkpointing.save_diverged(iteration, what, suspect_from=suspect_from)


def build_training(
    config: Config,
    components: Components,
    bus: Bus,
    *,
    folder: Path,
    communicator: Communicator,
    consensus: StopConsensus,
    console: Console,
) -> Training:
    """Return a `Training` at iteration 0.

    Args:
        config: the configuration of the run.
        components: components of the run, including model and data.
        bus: bus to which points are published; a `telemetry.NullBus` on all ranks but the first.
        folder: the run folder.
        communicator: communicator of the ranks.
        consensus: agreement of the ranks on when to stop.
        console: console that displays the progress.

    Raises:
        ConfigError: a metric in the settings is not a validation metric, or the validation data have no labels for it.
    """
    # Errors propagate; ignite would log them as well.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    reporter = Reporter(
        bus,
        train_sums=components.train_sums,
        labels=components.labels,
        fidelity_names=config.fidelity_names,
        optimizer=components.optimizer,
        lr_groups=lr_groups(config, components.model),
        loss_fn=components.loss_fn,
        val_every=config.log_frequency.val,
    )
    evaluations = Evaluations(
        folder,
        components,
        config,
        reporter=reporter,
        consensus=consensus,
        communicator=communicator,
        console=console,
    )
    checkpointing = Checkpointing(
        folder,
        components,
        config,
        evaluations=evaluations,
        bus=bus,
        communicator=communicator,
        console=console,
    )
    report = BadStepReport(
        components,
        build_loss(config, Communicator()),
        bus=bus,
        console=console,
        micro_batches=config.trainer.micro_batches,
    )
    bad_steps = BadSteps(config.trainer, (lambda _: "") if communicator.rank else report)
    return Training(
        config,
        components,
        reporter=reporter,
        evaluations=evaluations,
        checkpointing=checkpointing,
        bad_steps=bad_steps,
        bus=bus,
        communicator=communicator,
        consensus=consensus,
        console=console,
    )
