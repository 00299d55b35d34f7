"""The training of one rank, from the data to the outcome; torch has been imported, and the ranks have met."""

import math
from pathlib import Path

from aimnet2mult.data.report import Report
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.train.assembly import build_training
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.console import Console
from aimnet2mult.train.data_cache import share_contents
from aimnet2mult.train.final_weights import record_artifacts
from aimnet2mult.train.loop import Training
from aimnet2mult.train.out_of_memory import explaining_memory, memory_remedy
from aimnet2mult.train.outcome import Outcome
from aimnet2mult.train.plan import Plan
from aimnet2mult.train.reporter import Bus
from aimnet2mult.train.run_files import write_inputs
from aimnet2mult.train.setup_listing import list_setup
from aimnet2mult.train.setup_record import record_setup
from aimnet2mult.train.staging import stage_data
from aimnet2mult.train.time_limit import TimeLimit, find_end

__all__ = ["train_rank"]


def train_rank(
    plan: Plan, bus: Bus, stop: StopSignal, console: Console, communicator: Communicator
) -> tuple[Outcome, Components | None]:
    """Train, and return the outcome and the components, if there are any yet."""
    limit = TimeLimit(None if communicator.rank else find_end(plan.config.trainer.time_limit, stop.started))
    consensus = _build_consensus(plan, bus, stop, communicator, limit)
    if consensus.should_stop(now=True) or (components := _build_components(plan, communicator, consensus)) is None:
        return Outcome("preempted"), None
    _describe(plan, components, console, communicator)
    training = build_training(
        plan.config,
        components,
        bus,
        folder=plan.folder,
        communicator=communicator,
        consensus=consensus,
        console=console,
    )
    _start(plan, training, components, communicator)
    limit.restart()
    if plan.config.record_setup and not communicator.rank:
        record_setup(plan, components.data, components.device, bus)
    with explaining_memory(memory_remedy(plan.config)):
        outcome = training.run()
    if outcome.kind == "finished" and plan.config.checkpoint.artifacts and not communicator.rank:
        problem = record_artifacts(bus, components, plan.folder, training.iteration)
        if problem:
            console.say(f"warning: {problem}")
    return outcome, components


def _build_consensus(
    plan: Plan, bus: Bus, stop: StopSignal, communicator: Communicator, limit: TimeLimit
) -> StopConsensus:
    stops = plan.settings.on_divergence == "stop"
    minutes = plan.config.checkpoint.every_minutes
    return StopConsensus(
        stop,
        communicator,
        has_diverged=lambda: stops and bus.diverged is not None,
        is_time_up=limit.is_reached,
        checkpoint_interval=math.inf if minutes is None else 60 * minutes,
    )


def _build_components(plan: Plan, communicator: Communicator, consensus: StopConsensus) -> Components | None:
    """Return the components, with the data; None if the training is to stop while data are copied."""
    data = plan.report or Report()
    read_contents = share_contents(data, communicator)
    if (locations := stage_data(plan.config, data, communicator, consensus)) is None:
        return None
    weights = None if plan.checkpoint is not None or plan.config.load is None else Path(plan.config.load)
    components = communicator.run_on_all(
        lambda: build_components(
            plan.config,
            plan.definition,
            plan.folder,
            communicator,
            data.skipped,
            contents=read_contents(),
            open_stores=locations.open_stores,
            # Whether data are large has been decided from the files, before size groups are merged and padded.
            in_memory_gb=None if data.caches else math.inf,
            model_file=plan.model_file,
            weights=weights,
        )
    )
    # The plan lives as long as the training.
    data.contents.clear()
    communicator.set_device(components.device)
    return components


def _describe(plan: Plan, components: Components, console: Console, communicator: Communicator) -> None:
    if not communicator.rank:
        setup = list_setup(plan.config, plan.definition, components.model, components.optimizer)
        for line in (*components.describe(plan.config.fidelity_names), *(setup if plan.verbose else ())):
            console.say(line)
    if communicator.world_size > 1:
        console.say(f"{communicator.world_size} ranks share each batch")


def _start(plan: Plan, training: Training, components: Components, communicator: Communicator) -> None:
    """Load the checkpoint, if there is one, and write the files of the run."""
    if (path := plan.checkpoint) is not None:
        communicator.run_on_all(lambda: training.resume(path))
    # Only now, since other ranks may have been looking for these files.
    communicator.run_on_all(lambda: None if communicator.rank else write_inputs(plan, components))
