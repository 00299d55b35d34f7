"""Run a training from the arguments of the command to the receipt and the exit code.

All checks that do not need torch come first; then the run is opened, and torch and aimnet are imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from dataclasses import replace
from typing import Any

from aimnet2mult.config.import_path import allow_flags, allow_packages
from aimnet2mult.distributed.rank_info import RankInfo, find_rank_info
from aimnet2mult.distributed.stop_signal import Stopped, StopSignal
from aimnet2mult.errors import USER_ERRORS, RankLost
from aimnet2mult.train.ending import LOGGERS, close, close_diverged, close_failed, close_incomplete
from aimnet2mult.train.opening import check_plan, removing_blank_folder, start
from aimnet2mult.train.outcome import Outcome
from aimnet2mult.train.plan import Plan, Request, echo, make_plan
from aimnet2mult.train.run_files import write_settings
from aimnet2mult.train.startup import (
    EXIT_RANK_LOST,
    dismissing_others,
    load_libraries,
    open_store,
    say,
    stopping_at_once,
)
from aimnet2mult.train.trainer_wait import WAIT_LIMIT, TrainerWait
from telemetry import MetricBus, NullBus, RunAlive, read_receipt
from telemetry.logger import passing_messages
from telemetry.run_folder.paths import shell_path

__all__ = ["train"]

STOP_NOTICE = "stopping after this iteration and writing a checkpoint; Ctrl-C now stops without one"
"""What a signal causes during the training, and a second one."""
EXIT_USER_ERROR = 2
"""Exit code of ranks other than the first after an error of the user, which the first one reports."""
EXIT_DIVERGED = 3
"""Exit code of a run that stopped because it has diverged, or whose steps or final weights were not finite."""
EXIT_NOT_SAVED = 4
"""Exit code of a run trained to the end without a checkpoint of its last iteration or without the file ``--save``."""


def train(request: Request, *, wait_limit: float = WAIT_LIMIT) -> int:
    """Train as requested, and return the exit code.

    The trainer of the run to resume may still be alive on another machine. Up to ``wait_limit`` seconds are spent on
    waiting for it to end.

    The exit code is 0 if the run has finished, 128 + signal if a signal stopped it, 3 if it has diverged, or its steps
    or weights were not finite, and 4 if it was trained to the end, but the checkpoint of its last iteration or the file
    ``--save`` could not be written. With several ranks, rank 0 opens the run and broadcasts its plan to the others,
    which print nothing.

    Raises:
        RunBusy: the trainer of the run may still be alive.
        ConfigError: the configuration is invalid.
        DataError: the data are unusable.
        ModelError: the model cannot be built.
        CheckpointError: the checkpoint to resume from does not fit.
        TelemetryError: the run cannot be opened.
        RankLost: another rank has failed.
    """
    info = find_rank_info(os.environ)
    if info.world_size > 1:
        # Lost connections are reported in one line instead.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with allow_packages(request.allow_packages), StopSignal() as stop:
        if info.rank:
            return _run_other_rank(info, stop)
        # Before anything that may take long: the other ranks wait as long as the store is there.
        store = open_store(info, stop)
        wait = TrainerWait(say, wait_limit)
        with dismissing_others(store, info, stop):
            while (code := _run_first_rank(request, info, stop, store, wait)) is None:
                say("another process has just resumed the run")
        return code


def _run_first_rank(request: Request, info: RankInfo, stop: StopSignal, store: Any, wait: TrainerWait) -> int | None:
    """Return the exit code, or None if another process has resumed the run first."""
    with stopping_at_once(stop, info, store):
        plan = replace(make_plan(request, wait), verbose=request.verbose)
    if plan.nothing_left:
        return _conclude(plan, info, stop, store)
    try:
        with removing_blank_folder(plan):
            with stopping_at_once(stop, info, store):
                plan, run = check_plan(plan, wait)
            bus = start(run)
    except RunAlive:
        if request.resume is None:
            raise
        return None
    try:
        outcome, save_error = _run(plan, bus, stop, info, store)
    except BaseException as error:
        close_failed(bus, plan, error, stop, several_ranks=info.world_size > 1)
        if stop.interrupted:
            if plan.folder.exists():
                echo(f"stopped at once; {_resume_hint(plan)}")
            # A library may have turned the interrupt into another error.
            raise KeyboardInterrupt from None
        raise
    if outcome.kind == "diverged":
        close_diverged(bus, plan, stop)
    elif outcome.kind in ("finished", "preempted"):
        close(bus, plan, outcome.kind, stop, drain_briefly=outcome.kind == "preempted")
    else:
        close_incomplete(bus, plan, outcome.reason, stop)
    if outcome.kind == "preempted":
        echo(f"stopped by {stop.name}; {_resume_hint(plan)}")
    saved = _report_save(plan, save_error)
    return _exit_code(outcome, stop) or saved


def _resume_hint(plan: Plan) -> str:
    return f"resume with: aimnet2mult train --resume {shell_path(plan.folder)}{allow_flags()}"


def _conclude(plan: Plan, info: RankInfo, stop: StopSignal, store: Any) -> int:
    """Report that a run is complete, and what is pending; tell the other ranks, and write the weights to ``--save``."""
    echo(f"{plan.folder}: {plan.nothing_left}", err=True)
    for line in read_receipt(plan.folder).sync_command():
        echo(line, err=True)
    if info.world_size > 1:
        load_libraries()
        from aimnet2mult.distributed.process_group import process_group

        with process_group(info, stop, say=say, store=store) as communicator:
            communicator.broadcast(plan)
    if plan.save is None or plan.checkpoint is None:
        return 0
    from aimnet2mult.train.final_weights import save_from_checkpoint

    return _report_save(plan, save_from_checkpoint(plan.checkpoint, plan.save, plan.folder))


def _report_save(plan: Plan, error: str | None) -> int:
    """Report whether the weights were written to ``--save``, and return the exit code; None: they were not due."""
    if error is not None:
        echo(f"error: {error}" if error else f"weights: {plan.save}", err=True)
    return EXIT_NOT_SAVED if error else 0


def _run_other_rank(info: RankInfo, stop: StopSignal) -> int:
    with stopping_at_once(stop, info):
        load_libraries()
    from aimnet2mult.distributed.process_group import process_group
    from aimnet2mult.train.console import NullConsole
    from aimnet2mult.train.rank_training import train_rank

    logging.getLogger("aimnet2mult").setLevel(logging.ERROR)
    # One line from each machine is enough.
    announce = say if info.local_rank == 0 else NullConsole().say
    try:
        with process_group(info, stop, say=announce) as communicator:
            plan: Plan = communicator.broadcast(None)  # type: ignore[assignment]
            if plan.nothing_left:
                return 0
            other_bus = NullBus(plan.settings.every, plan.settings.events)
            outcome, _ = train_rank(plan, other_bus, stop, NullConsole(), communicator)
    except USER_ERRORS:
        return EXIT_USER_ERROR
    except RankLost as lost:
        if not lost.reported:
            raise
        return EXIT_RANK_LOST
    return _exit_code(outcome, stop)


def _exit_code(outcome: Outcome, stop: StopSignal) -> int:
    if outcome.kind in ("diverged", "not finite"):
        return EXIT_DIVERGED
    if stop.interrupted:
        return 128 + signal.SIGINT
    if outcome.kind == "not saved":
        return EXIT_NOT_SAVED
    return stop.exit_code if outcome.kind == "preempted" and stop.requested else 0


def _run(plan: Plan, bus: MetricBus, stop: StopSignal, info: RankInfo, store: Any) -> tuple[Outcome, str | None]:
    """Train; return the outcome, and why the weights could not be written to ``--save``: "" if they were, else None."""
    start = "new run" if plan.resume_step is None else f"resuming after iteration {plan.resume_step}"
    echo(f"{plan.folder}: {start}; sinks: {', '.join(plan.settings.sinks) or 'none'}", err=True)
    if plan.resume_step is None:
        write_settings(plan)
    if stop.requested and info.world_size == 1:
        return Outcome("preempted"), None
    from aimnet2mult.train.console import Console

    config = plan.config
    console = Console(_display_units(plan, bus), epochs=config.trainer.epochs, interval=config.log_frequency.progress)
    with contextlib.closing(console), passing_messages(console.say, *LOGGERS):
        console.say("loading torch and aimnet …")
        try:
            # On a slow file system, this takes longer than the time left after a signal. Several ranks stop together.
            with stop.stopping_at_once() if info.world_size == 1 else contextlib.nullcontext():
                load_libraries()
        except (Stopped, KeyboardInterrupt):
            return Outcome("preempted"), None
        from aimnet2mult.distributed.process_group import process_group
        from aimnet2mult.train.rank_training import train_rank

        with process_group(info, stop, say=console.say, store=store) as communicator:
            stop.notice = STOP_NOTICE
            outcome, components = train_rank(communicator.broadcast(plan), bus, stop, console, communicator)
            stop.notice = ""
        if outcome.kind not in ("finished", "not saved") or plan.save is None or components is None:
            return outcome, None
        from aimnet2mult.train.final_weights import save_model

        with components.evaluation_weights():
            return outcome, save_model(components.model, components.description, plan.save, plan.folder)


def _display_units(plan: Plan, bus: MetricBus) -> dict[str, tuple[str, float]]:
    """Return the display unit of each trained label, and the factor to it, by abbreviation."""
    metrics = {label.abbr: f"train/{label.abbr}_rmse" for label in plan.config.labels}
    return {abbr: (plan.metrics[metric].unit, bus.factors[metric]) for abbr, metric in metrics.items()}
