"""Assemble a training from its parts."""

from pathlib import Path

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.train.bad_steps import BadStepReport, BadSteps
from aimnet2mult.train.checkpointing import Checkpointing
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.learner import build_loss
from aimnet2mult.train.loop import Training
from aimnet2mult.train.reporter import Bus, Reporter
from aimnet2mult.train.scheduled_values import lr_groups
from aimnet2mult.train.validation_media import ValidationMedia

__all__ = ["build_training"]


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
        ConfigError: a metric in the settings is not a validation metric, or the validation data have no labels for it;
            or the schedule cannot continue to the end of the training.
    """
    for line in _check_schedule(config, components):
        console.say(line)
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
    media = None
    if components.val is not None:
        media = ValidationMedia(components.val, components, config, bus=bus, communicator=communicator)
        if notice := media.notice():
            console.say(notice)
    evaluations = Evaluations(
        folder,
        components,
        config,
        reporter=reporter,
        consensus=consensus,
        communicator=communicator,
        console=console,
        media=media,
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


def _check_schedule(config: Config, components: Components) -> list[str]:
    epochs, every = config.trainer.epochs, config.log_frequency.val
    iterations = epochs * len(components.train_loader)
    validations = epochs if every is None else iterations // every
    return components.schedule.check_length(iterations=iterations, epochs=epochs, validations=validations)
