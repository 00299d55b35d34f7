"""Run a training from the arguments of the command to the receipt and the exit code.

All checks that do not need torch come first; then the run is opened, and torch and aimnet are imported.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aimnet2mult.config.merge import write_yaml
from aimnet2mult.config.resume_rules import CONFIG_FILE, MODEL_FILE
from aimnet2mult.distributed.rank_info import RankInfo, find_rank_info
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import CheckpointError, ConfigError, DataError, ModelError, RankLost
from aimnet2mult.quantities import LABELS
from aimnet2mult.train.checkpoint_folder import find_newest
from aimnet2mult.train.data_check import check_data, write_skipped
from aimnet2mult.train.plan import Plan, Request, echo, make_plan
from telemetry import MetricBus, NullBus, Status
from telemetry.errors import format_error
from telemetry.recording.open_run import start_run
from telemetry.recording.run_plan import RunPlan, plan_run

if TYPE_CHECKING:
    from aimnet2mult.distributed.communicator import Communicator
    from aimnet2mult.train.console import Console
    from aimnet2mult.train.loop import Outcome

__all__ = ["train"]

PACKAGES = ("aimnet2mult", "aimnet", "torch", "pytorch-ignite", "numpy")
"""Packages whose versions the run records."""

PREEMPTED_DRAIN_TIMEOUT = 5.0
"""Maximum time, in seconds, to wait for the sinks of a run that was stopped or has lost a rank."""

EXIT_RANK_LOST, EXIT_USER_ERROR = 1, 2
"""Exit codes of ranks other than the first, which reports the error."""
EXIT_DIVERGED = 3
"""Exit code of a run that stopped because it has diverged."""

USER_ERRORS = (ConfigError, DataError, ModelError, CheckpointError)
"""Errors that the user can fix; their message is shown without a traceback."""


def train(request: Request) -> int:
    """Train as requested, and return the exit code.

    The exit code is 0 if the run has finished, 128 + signal if a signal stopped it, and 3 if it has diverged.
    With several ranks, rank 0 opens the run and broadcasts its plan to the others, which print nothing.

    Raises:
        ConfigError: the configuration is invalid.
        DataError: the data are unusable.
        ModelError: the model cannot be built.
        CheckpointError: the checkpoint to resume from does not fit.
        TelemetryError: the run cannot be opened.
        RankLost: another rank has failed.
    """
    info = find_rank_info(os.environ)
    return _run_other_rank(info) if info.rank else _run_first_rank(request, info)


def _run_first_rank(request: Request, info: RankInfo) -> int:
    plan, run = _check(make_plan(request))
    with StopSignal() as stop:
        bus = _start_run(plan, run)
        try:
            outcome = _run(plan, bus, stop, info)
        except BaseException as error:
            _close_failed(bus, plan, error, several_ranks=info.world_size > 1)
            raise
        if outcome == "diverged":
            _close_diverged(bus, plan)
        else:
            _close(bus, plan, outcome, drain_briefly=outcome == "preempted")
        if outcome == "preempted":
            echo(f"stopped by {_signal_name(stop)}; resume with: aimnet2mult train --resume {plan.folder}")
    return _exit_code(outcome, stop)


def _run_other_rank(info: RankInfo) -> int:
    _load_libraries()
    from aimnet2mult.distributed.process_group import process_group
    from aimnet2mult.train.console import NullConsole

    logging.getLogger("aimnet2mult").setLevel(logging.ERROR)
    stop = StopSignal()
    with contextlib.ExitStack() as handlers:
        try:
            with process_group(info) as communicator:
                # Until all ranks have joined, a signal ends this one at once: there is nothing to save yet.
                handlers.enter_context(stop)
                plan: Plan = communicator.broadcast(None)  # type: ignore[assignment]
                outcome = _train(plan, NullBus(plan.settings.every), stop, NullConsole(), communicator)
        except USER_ERRORS:
            return EXIT_USER_ERROR
        except RankLost as lost:
            if not lost.reported:
                raise
            return EXIT_RANK_LOST
    return _exit_code(outcome, stop)


def _exit_code(outcome: Outcome, stop: StopSignal) -> int:
    if outcome == "diverged":
        return EXIT_DIVERGED
    return 128 + stop.signal if outcome == "preempted" and stop.signal else 0


def _check(plan: Plan) -> tuple[Plan, RunPlan]:
    """Check telemetry and then, which may take minutes, the data; only a signal's default action interrupts it."""
    config = plan.config
    params = {**msgspec.to_builtins(config, str_keys=True), "model": plan.definition}
    with _removing_blank_folder(plan):
        run = plan_run(
            plan.folder,
            name=config.run_name,
            project=config.project_name,
            params=params,
            metrics=plan.metrics,
            versions={package: version(package) for package in PACKAGES},
            settings=plan.settings,
            resume_step=plan.resume_step,
        )
        report = check_data(config, resumes=plan.checkpoint is not None)
    if report.bad_rows:
        params = {**run.record.params, "skipped_structures": report.bad_count}
        run = msgspec.structs.replace(run, record=msgspec.structs.replace(run.record, params=params))
    return replace(plan, report=report), run


def _start_run(plan: Plan, run: RunPlan) -> MetricBus:
    with _removing_blank_folder(plan):
        return start_run(run)


@contextlib.contextmanager
def _removing_blank_folder(plan: Plan) -> Iterator[None]:
    """Remove the folder of a new run in case of an error; one that is not empty stays."""
    try:
        yield
    except BaseException:
        if plan.resume_step is None:
            with contextlib.suppress(OSError):
                plan.folder.rmdir()
        raise


def _run(plan: Plan, bus: MetricBus, stop: StopSignal, info: RankInfo) -> Outcome:
    start = "new run" if plan.resume_step is None else f"resuming after iteration {plan.resume_step}"
    echo(f"{plan.folder}: {start}; sinks: {', '.join(plan.settings.sinks) or 'none'}", err=True)
    write_yaml(plan.folder / CONFIG_FILE, plan.config.to_dict())
    write_yaml(plan.folder / MODEL_FILE, plan.definition)
    write_skipped(plan)
    if stop.requested:
        return "preempted"
    from aimnet2mult.train.console import Console

    console = Console(_display_units(plan, bus), epochs=plan.config.trainer.epochs)
    console.say("loading torch and aimnet …")
    _load_libraries()
    from aimnet2mult.distributed.process_group import TIMEOUT, process_group

    if info.world_size > 1:
        console.say(f"waiting up to {TIMEOUT.seconds // 60} minutes for all {info.world_size} ranks …")
    try:
        with process_group(info) as communicator:
            return _train(communicator.broadcast(plan), bus, stop, console, communicator)
    finally:
        console.close()


def _load_libraries() -> None:
    """Import torch and aimnet without garbage collection.

    The imports create two million permanent objects. Traversing these repeatedly takes longer than the imports
    themselves, and at exit it takes seconds that a preempted run does not have.
    """
    gc.disable()
    try:
        import aimnet2mult.distributed.process_group
        import aimnet2mult.train.loop  # noqa: F401 - imports all other libraries
    finally:
        gc.enable()
    gc.freeze()


def _train(
    plan: Plan, bus: MetricBus | NullBus, stop: StopSignal, console: Console, communicator: Communicator
) -> Outcome:
    from aimnet2mult.distributed.stop_consensus import StopConsensus
    from aimnet2mult.models.weights import are_finite, load_weights, save_weights
    from aimnet2mult.train.components import build_components, save_reference_energies
    from aimnet2mult.train.loop import build_training

    stops = plan.settings.on_divergence == "stop"
    consensus = StopConsensus(stop, communicator, has_diverged=lambda: stops and bus.diverged is not None)
    if consensus.should_stop(now=True):
        return "preempted"
    skipped = None if plan.report is None else plan.report.skipped
    components = communicator.run_on_all(
        lambda: build_components(plan.config, plan.definition, plan.folder, communicator, skipped)
    )
    communicator.set_device(components.device)
    if not communicator.rank:
        # Only now, since other ranks may have been looking for these files.
        save_reference_energies(components, plan.config.fidelity_names, plan.folder)
        console.say(components.describe(plan.config.fidelity_names))
    if communicator.world_size > 1:
        console.say(f"{communicator.world_size} ranks share each batch")
    training = build_training(
        plan.config,
        components,
        bus,
        folder=plan.folder,
        communicator=communicator,
        consensus=consensus,
        console=console,
    )
    if plan.checkpoint is not None:
        path = plan.checkpoint
        communicator.run_on_all(lambda: training.resume(path))
    elif plan.config.load is not None:
        weights = Path(plan.config.load)
        console.say(communicator.run_on_all(lambda: load_weights(components.model, weights)))
    outcome = training.run()
    if outcome == "finished" and plan.save is not None and not communicator.rank:
        if are_finite(components.model):
            save_weights(components.model, plan.save)
            console.say(f"weights: {plan.save}")
        else:
            console.say(f"warning: --save {plan.save} is not written: the model's weights are not finite")
    return outcome


def _display_units(plan: Plan, bus: MetricBus) -> dict[str, tuple[str, float]]:
    """Return the display unit of each label that is trained, and the factor that converts the source unit to it."""
    metrics = {name: f"train/{LABELS[name].abbr}_rmse" for name in plan.config.labels}
    return {name: (plan.metrics[metric].unit, bus.factors[metric]) for name, metric in metrics.items()}


def _close_failed(bus: MetricBus, plan: Plan, error: BaseException, *, several_ranks: bool) -> None:
    killed = isinstance(error, KeyboardInterrupt)
    reason = str(error) if isinstance(error, RankLost) else format_error(error)
    # With several ranks, the launcher soon kills the remaining processes of a failed job.
    _close(bus, plan, "killed" if killed else "failed", reason, drain_briefly=killed or several_ranks)
    if isinstance(error, ConfigError | DataError | ModelError) and plan.resume_step is None:
        # Training never started, and the corrected command creates everything again.
        shutil.rmtree(plan.folder, ignore_errors=True)


def _close_diverged(bus: MetricBus, plan: Plan) -> None:
    reason = "diverged" if bus.diverged is None else f"diverged: {bus.diverged.reason}"
    _close(bus, plan, "failed", reason, drain_briefly=False)
    newest = find_newest(plan.folder)
    weights = f" and the weights from before: aimnet2mult train … --load {newest}" if newest else ""
    echo(f"{reason}; start a new run with other settings{weights}", err=True)


def _close(bus: MetricBus, plan: Plan, status: Status, reason: str = "", *, drain_briefly: bool) -> None:
    timeout = plan.settings.drain_timeout
    if drain_briefly:
        timeout = min(PREEMPTED_DRAIN_TIMEOUT, timeout)
    receipt = bus.close(status, reason=reason, timeout=timeout)
    if status != "failed" or bus.counts().offered:
        echo(str(receipt))


def _signal_name(stop: StopSignal) -> str:
    return signal.Signals(stop.signal).name if stop.signal else "a signal"
