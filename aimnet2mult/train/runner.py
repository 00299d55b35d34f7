"""A training run from the command's arguments to the receipt.

All that can be checked without torch is checked first; then the run is opened, and torch and aimnet are imported.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aimnet2mult.config import resume_rules as resume
from aimnet2mult.config.merge import write_yaml
from aimnet2mult.distributed.rank_info import Communicator, RankInfo, find_rank_info
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import CheckpointError, ConfigError, DataError, ModelError, RankLost
from aimnet2mult.labels import LABELS
from aimnet2mult.train import checkpointing as checkpoint
from aimnet2mult.train.plan import Plan, Request, echo, make_plan
from telemetry import MetricBus, NullBus, Status, TelemetryError, open_run
from telemetry.errors import format_error

if TYPE_CHECKING:
    from aimnet2mult.train.console import Console
    from aimnet2mult.train.loop import Outcome

__all__ = ["train"]

PACKAGES = ("aimnet2mult", "aimnet", "torch", "pytorch-ignite", "numpy")

PREEMPTED_DRAIN_TIMEOUT = 5.0
"""Seconds that the end of a run that was stopped, or has lost a rank, waits for its sinks."""

DIVERGED = 3
"""The exit code of a training that was to stop when it diverges, and has."""

USER_ERRORS = (ConfigError, DataError, ModelError, CheckpointError)


def train(request: Request) -> int:
    """Train as requested, and return the exit code: 0 for a finished run, 128 + signal for one that was stopped.

    3 is for one that has diverged, and was to stop then.

    Of several ranks the first has the run; the others are told what to do, and say nothing.

    Raises ConfigError, DataError, ModelError and TelemetryError for what the user can mend, and RankLost.
    """
    place = find_rank_info(os.environ)
    return _follow(place) if place.rank else _lead(request, place)


def _lead(request: Request, place: RankInfo) -> int:
    plan = make_plan(request)
    with StopSignal() as stop:
        bus = _open(plan)
        try:
            outcome = _run(plan, bus, stop, place)
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            reason = str(error) if isinstance(error, RankLost) else format_error(error)
            # The launcher soon kills what is left of a job that has lost a rank.
            _close(bus, plan, "killed" if killed else "failed", reason, hurry=killed or place.world > 1)
            if isinstance(error, ConfigError | DataError | ModelError) and plan.resume_step is None:
                # It never began to train: there is nothing in it that the mended command would not make again.
                shutil.rmtree(plan.folder, ignore_errors=True)
            raise
        if outcome == "diverged":
            reason = "diverged" if bus.diverged is None else f"diverged: {bus.diverged.reason}"
            _close(bus, plan, "failed", reason, hurry=False)
            good = checkpoint.newest(plan.folder)
            cure = f" from before it: aimnet2mult train … --load {good}" if good else ""
            echo(f"{reason}; start again, with other settings{cure}", err=True)
        else:
            _close(bus, plan, outcome, hurry=outcome == "preempted")
        if outcome == "preempted":
            echo(f"stopped by {_signal_name(stop)}; go on with: aimnet2mult train --resume {plan.folder}")
    return _exit_code(outcome, stop)


def _follow(place: RankInfo) -> int:
    _load_libraries()
    from aimnet2mult.distributed.process_group import process_group
    from aimnet2mult.train.console import NullConsole

    logging.getLogger("aimnet2mult").setLevel(logging.ERROR)
    stop = StopSignal()
    with contextlib.ExitStack() as handlers:
        try:
            with process_group(place) as ranks:
                # Until all are there a signal ends this rank at once: then there is nothing to save.
                handlers.enter_context(stop)
                plan: Plan = ranks.broadcast(None)  # type: ignore[assignment]
                outcome = _train(plan, NullBus(plan.settings.every), stop, NullConsole(), ranks)
        except USER_ERRORS:
            # The first says it, or that this rank has failed.
            return 2
        except RankLost as lost:
            if not lost.reported:
                raise
            return 1
    return _exit_code(outcome, stop)


def _exit_code(outcome: Outcome, stop: StopSignal) -> int:
    if outcome == "diverged":
        return DIVERGED
    return 128 + stop.signal if outcome == "preempted" and stop.signal else 0


def _open(plan: Plan) -> MetricBus:
    config = plan.config
    try:
        bus = open_run(
            plan.folder,
            name=config.run_name,
            project=config.project_name,
            params={**msgspec.to_builtins(config, str_keys=True), "model": plan.definition},
            metrics=plan.metrics,
            versions={package: version(package) for package in PACKAGES},
            settings=plan.settings,
            resume_step=plan.resume_step,
        )
    except TelemetryError:
        if plan.resume_step is None:
            # Nothing has been written; a folder with something in it stays.
            with contextlib.suppress(OSError):
                plan.folder.rmdir()
        raise
    return bus


def _run(plan: Plan, bus: MetricBus, stop: StopSignal, place: RankInfo) -> Outcome:
    began = "a new run" if plan.resume_step is None else f"goes on after iteration {plan.resume_step}"
    echo(f"{plan.folder}: {began}; sinks: {', '.join(plan.settings.sinks) or 'none'}", err=True)
    write_yaml(plan.folder / resume.CONFIG_FILE, plan.config.to_dict())
    write_yaml(plan.folder / resume.MODEL_FILE, plan.definition)
    if stop.requested:
        return "preempted"
    from aimnet2mult.train.console import Console

    progress = Console(_shown_units(plan, bus), epochs=plan.config.trainer.epochs)
    progress.say("loading torch and aimnet …")
    _load_libraries()
    from aimnet2mult.distributed.process_group import TIMEOUT, process_group

    if place.world > 1:
        progress.say(f"waiting for the others of {place.world} ranks, for {TIMEOUT.seconds // 60} minutes at most …")
    try:
        with process_group(place) as ranks:
            return _train(ranks.broadcast(plan), bus, stop, progress, ranks)
    finally:
        progress.close()


def _load_libraries() -> None:
    """Import torch and aimnet, which make two million objects that live as long as the process.

    Going through them again and again while there come more takes longer than the imports themselves; and at the exit
    it takes seconds, which a run that is being pre-empted does not have.
    """
    gc.disable()
    try:
        import aimnet2mult.distributed.process_group
        import aimnet2mult.train.loop  # noqa: F401 - all that is imported with it
    finally:
        gc.enable()
    gc.freeze()


def _train(plan: Plan, bus: MetricBus | NullBus, stop: StopSignal, progress: Console, ranks: Communicator) -> Outcome:
    from aimnet2mult.distributed.stop_consensus import StopConsensus
    from aimnet2mult.models.weights import are_finite, load_weights, save_weights
    from aimnet2mult.train.components import build_components, keep_saes
    from aimnet2mult.train.loop import Training

    stops = plan.settings.on_divergence == "stop"
    agreement = StopConsensus(stop, ranks, has_diverged=lambda: stops and bus.diverged is not None)
    if agreement.should_stop(now=True):
        return "preempted"
    parts = ranks.run_on_all(lambda: build_components(plan.config, plan.definition, plan.folder, ranks))
    ranks.set_device(parts.device)
    if not ranks.rank:
        # Now that no other can find them half made.
        keep_saes(parts, plan.config.fidelity_names, plan.folder)
    progress.say(parts.describe(plan.config.fidelity_names))
    if ranks.world > 1:
        progress.say(f"{ranks.world} ranks share each batch")
    training = Training(
        plan.config, parts, bus, folder=plan.folder, ranks=ranks, agreement=agreement, progress=progress
    )
    if plan.checkpoint is not None:
        path = plan.checkpoint
        ranks.run_on_all(lambda: training.resume(path))
    elif plan.config.load is not None:
        weights = Path(plan.config.load)
        progress.say(ranks.run_on_all(lambda: load_weights(parts.model, weights)))
    outcome = training.run()
    if outcome == "finished" and plan.save is not None and not ranks.rank:
        if are_finite(parts.model):
            save_weights(parts.model, plan.save)
            progress.say(f"weights: {plan.save}")
        else:
            progress.say(f"warning: nothing is written to {plan.save}: the model's weights are not finite")
    return outcome


def _shown_units(plan: Plan, bus: MetricBus) -> dict[str, tuple[str, float]]:
    """Return for each label that is learnt the unit to show, and the factor to it."""
    metrics = {name: f"train/{LABELS[name].abbr}_rmse" for name in plan.config.labels}
    return {name: (plan.metrics[metric].unit, bus.factors[metric]) for name, metric in metrics.items()}


def _close(bus: MetricBus, plan: Plan, status: Status, reason: str = "", *, hurry: bool) -> None:
    # Whoever stops a run waits for its end.
    wait = plan.settings.drain_timeout
    receipt = bus.close(status, reason=reason, timeout=min(PREEMPTED_DRAIN_TIMEOUT, wait) if hurry else wait)
    if status != "failed" or bus.counts().offered:
        echo(str(receipt))


def _signal_name(stop: StopSignal) -> str:
    return signal.Signals(stop.signal).name if stop.signal else "a signal"
