"""The training loop: iterations and epochs, and when to validate, save and stop."""

from pathlib import Path

from ignite.engine import Engine, Events

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.train.bad_steps import BadSteps
from aimnet2mult.train.checkpointing import Checkpointing
from aimnet2mult.train.components import Components
from aimnet2mult.train.conclusion import conclude
from aimnet2mult.train.console import Console
from aimnet2mult.train.early_end import EarlyEnd
from aimnet2mult.train.engine import build_trainer, epoch_length, total_iterations
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.loss_methods import TakesIteration
from aimnet2mult.train.outcome import Outcome
from aimnet2mult.train.random_state import seed_rank
from aimnet2mult.train.reporter import Bus, Reporter
from aimnet2mult.train.timed_loader import TimedLoader

__all__ = ["Training"]


class Training:
    """The training of a run, from the current position to the end or until the ranks agree to stop.

    A stop takes effect between iterations; at the end of an epoch, only after its statistics, validation and
    checkpoint. Only a running evaluation is interrupted; it is repeated on resume.

    Every rank has an instance, and all ranks perform the same operations in each iteration.
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
        self._loader = TimedLoader(components.train_loader)
        reporter.sample_waiting(self._loader.percentage)
        self._early_end = EarlyEnd(config, components, evaluations, console)
        self._trainer = _build_trainer(config, components, communicator)
        self._add_handlers(self._trainer)
        self._set_position(0)

    @property
    def iteration(self) -> int:
        """The last iteration."""
        iteration: int = self._trainer.state.iteration
        return iteration

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
            is_tested = self._evaluations.is_tested(state.iteration)
            rest = "; increase trainer.epochs to continue" if is_tested else ", only the test"
            self._console.say(f"nothing left to train after epoch {self._config.trainer.epochs}{rest}")
            # The pending validation may have revealed a divergence: exchanging it sets `consensus.diverged`.
            self._bus.flush(media=False)
            self._consensus.should_stop(now=True)
        elif not self._early_end.check(self._trainer) and not self._consensus.should_stop(now=True):
            self._consensus.reset_interval()
            self._trainer.run(self._loader)
        return conclude(
            state.iteration,
            complete=(state.iteration == total or self._early_end.reached) and not self._evaluations.pending,
            components=self._components,
            evaluations=self._evaluations,
            checkpointing=self._checkpointing,
            bad_steps=self._bad_steps,
            consensus=self._consensus,
        )

    def _add_handlers(self, trainer: Engine) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED, self._set_epoch_order)
        # Publish first, while the learning rate is still the one used in the iteration.
        self._reporter.attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)

    def _set_position(self, iteration: int) -> None:
        length, epochs = len(self._components.train_loader), self._config.trainer.epochs
        self._trainer.load_state_dict({"iteration": iteration, "epoch_length": length, "max_epochs": epochs})
        if self._communicator.rank:
            seed_rank(self._config.seed, self._communicator.rank, iteration)

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
        self._console.iteration(iteration, total, self._reporter.values.latest, self._bus.alerts)
        # If the trainer were terminated here, ignite would skip the end of the epoch, and so would the resumed run.
        if iteration % epoch_length(engine) == 0:
            return
        if validates:
            self._publish_last_point(engine)
        failed = bool(self._bad_steps.failure)
        if self._consensus.should_stop(failed=failed) or (validates and self._early_end.check(engine)):
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
        latest = self._reporter.values.latest
        if every is not None and iteration % every:
            # The newest validation is older than this line.
            latest = {name: value for name, value in latest.items() if not name.startswith("val/")}
        self._console.epoch(engine.state.epoch, iteration, latest)
        failed = bool(self._bad_steps.failure)
        if self._consensus.should_stop(now=True, failed=failed) or self._early_end.check(engine):
            engine.terminate()

    def _publish_last_point(self, engine: Engine) -> None:
        """Publish a point of the training if it ends early with this iteration."""
        if self._early_end.describe(engine):
            self._reporter.publish_last(engine)

    def _validate(self, iteration: int) -> None:
        with self._reporter.paused():
            self._evaluations.validate(iteration)

    def _save(self, iteration: int) -> None:
        with self._reporter.paused():
            self._checkpointing.save(iteration)
        self._consensus.checkpoint_written()


def _build_trainer(config: Config, components: Components, communicator: Communicator) -> Engine:
    loss_fn = components.loss_fn
    trainer = build_trainer(
        components.model,
        components.optimizer,
        loss_fn,
        components.train_sums,
        device=components.device,
        clip_value=config.trainer.clip_grad_value,
        clip_norm=config.trainer.clip_grad_norm,
        communicator=communicator,
        micro_batches=config.trainer.micro_batches,
        average=components.average,
    )
    if isinstance(loss_fn, TakesIteration):
        trainer.add_event_handler(
            Events.ITERATION_STARTED, lambda engine: loss_fn.set_iteration(engine.state.iteration)
        )
    return trainer
