"""Close a run with its status, print the receipt, and say how to go on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from aimnet2mult.errors import USER_ERRORS, OutOfMemory, RankLost
from aimnet2mult.models.checkpoint_folder import find_newest
from aimnet2mult.train.new_folders import remove_empty
from aimnet2mult.train.plan import Plan, echo
from aimnet2mult.train.sink_wait import SinkWait
from telemetry.delivery.deadline import Deadline
from telemetry.errors import format_error
from telemetry.logger import passing_messages
from telemetry.run_folder.paths import shell_path

if TYPE_CHECKING:
    from aimnet2mult.distributed.stop_signal import StopSignal
    from telemetry import MetricBus, Status

__all__ = ["LOGGERS", "close", "close_diverged", "close_failed", "close_incomplete"]

PREEMPTED_DRAIN_TIMEOUT = 5.0
"""Maximum time, in seconds, to wait for the sinks of a run that was stopped or has lost a rank."""
LOGGERS = ("telemetry", "aimnet2mult")
"""The loggers whose messages are for the user."""
LAST_MOMENT = 2.0
"""Maximum time, in seconds, to continue this wait after another signal."""


def close(
    bus: MetricBus, plan: Plan, status: Status, stop: StopSignal, reason: str = "", *, drain_briefly: bool
) -> None:
    """Close a run, wait for its sinks, and print the receipt; Ctrl-C ends the wait, other signals shorten it.

    Args:
        bus: the bus of the run.
        plan: the plan of the run.
        status: how the training ended.
        stop: the stop signal.
        reason: why, in a few words.
        drain_briefly: whether the process has only a few seconds left.
    """
    timeout = plan.settings.drain_timeout
    # A signal that came too late to stop the training has the same meaning as one during the wait.
    if drain_briefly or stop.requested:
        timeout = min(PREEMPTED_DRAIN_TIMEOUT, timeout)
    shown = Deadline(timeout)
    in_background = plan.settings.delivery == "process"
    on_interrupt = "continue in the background" if in_background else "leave it to `telemetry sync`"

    def hasten() -> None:
        bus.limit_drain(LAST_MOMENT)
        shown.shorten(LAST_MOMENT)

    try:
        with (
            SinkWait(plan.folder, plan.settings.sinks, shown, on_interrupt=on_interrupt) as wait,
            passing_messages(wait.say, *LOGGERS),
        ):
            stop.end_training(hasten)
            receipt = bus.close(status, reason=reason, timeout=timeout)
    except KeyboardInterrupt:
        # The user does not want to wait for the sinks.
        stop.ignore_interrupts()
        receipt = bus.close(status, reason=reason, timeout=0)
    if status != "failed" or bus.counts().offered:
        echo(str(receipt))


def close_failed(bus: MetricBus, plan: Plan, error: BaseException, stop: StopSignal, *, several_ranks: bool) -> None:
    """Close a run that an error has ended; remove a new run that was never trained because of an error of the user."""
    reason = str(error) if isinstance(error, RankLost) else format_error(error)
    status: Status = "failed"
    if stop.interrupted or isinstance(error, KeyboardInterrupt):
        status, reason = "killed", "KeyboardInterrupt"
    elif isinstance(error, USER_ERRORS) and plan.status_before is not None:
        # Nothing has been trained in this attempt, so the run is what it was.
        status = plan.status_before
    if isinstance(error, USER_ERRORS) and not bus.counts().offered:
        # The user waits for the message, and no sink misses anything.
        bus.close(status, reason=reason, timeout=0)
    else:
        # With several ranks, the launcher soon kills the remaining processes of a failed job.
        close(bus, plan, status, stop, reason, drain_briefly=status == "killed" or several_ranks)
    if isinstance(error, OutOfMemory):
        echo(_describe_newest(plan), err=True)
    if isinstance(error, USER_ERRORS) and plan.resume_step is None:
        # Training never started, and the corrected command creates everything again.
        shutil.rmtree(plan.folder, ignore_errors=True)
        remove_empty(plan.new_folders)


def close_diverged(bus: MetricBus, plan: Plan, stop: StopSignal) -> None:
    """Close a run that has diverged, and name the checkpoint from before."""
    reason = "diverged" if bus.diverged is None else f"diverged: {bus.diverged.reason}"
    close(bus, plan, "failed", stop, reason, drain_briefly=False)
    newest = find_newest(plan.folder)
    weights = f" and the weights from before: aimnet2mult train … --load {shell_path(newest)}" if newest else ""
    echo(f"error: {reason}; start a new run with other settings{weights}", err=True)


def close_incomplete(bus: MetricBus, plan: Plan, reason: str, stop: StopSignal) -> None:
    """Close a run that was trained without success, and name its newest checkpoint."""
    close(bus, plan, "failed", stop, reason, drain_briefly=False)
    echo(f"error: {reason}; {_describe_newest(plan)}", err=True)


def _describe_newest(plan: Plan) -> str:
    newest = find_newest(plan.folder)
    return f"the newest checkpoint is {newest}" if newest else "the run has no checkpoint"
