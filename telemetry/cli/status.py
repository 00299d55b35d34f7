"""``telemetry status``: show the status of a run and the progress of each sink, and what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from telemetry.alerts.rules import STALL_FACTOR
from telemetry.cli.console import RUN, exits_with_message, print_line, print_sinks, print_skipped
from telemetry.delivery.receipt import Receipt, read_receipt
from telemetry.display.dashboard import STATUS_TEXTS
from telemetry.reading.run_list import age
from telemetry.reading.run_summary import RunSummary, summarize
from telemetry.records import now_ms
from telemetry.run_folder.heartbeat import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, Heartbeat, read_heartbeat
from telemetry.run_folder.paths import heartbeat_path, shell_path

MIN_SILENCE = 60.0
"""Seconds without a new point before the training may be considered stuck."""
TRAINER = "aimnet2mult"
"""Key in the versions of runs of the trainer whose resume command is known."""


@click.command()
@click.argument("run", type=RUN)
@exits_with_message
def status(run: Path) -> None:
    """Show the status of a run and of its sinks.

    RUN is a run folder, or the ID or name of a run in ./runs.
    """
    summary = summarize(run, None)
    receipt = read_receipt(run)
    heartbeat = read_heartbeat(run)
    header = summary.header
    state = STATUS_TEXTS.get(summary.status, summary.status) + (f" ({receipt.reason})" if receipt.reason else "")
    print_line(f"{header.name} ({header.run_id}), attempt {header.attempt}: {state}")
    if heartbeat is not None:
        print_line(f"trainer: {heartbeat.trainer}{_ended(summary, receipt)}")
    when = f", {age(now_ms() - summary.point_time)}" if summary.point_time else ""
    print_line(f"last point at iteration {receipt.step}{when}; {receipt.journaled} records in the journal")
    for line in (*_lost(receipt), *_advice(summary, heartbeat)):
        print_line(line)
    # While a run and its deliveries are in progress, pending records need no command.
    is_delivered = summary.status == "running" and all(sink.holder for sink in receipt.sinks if sink.is_behind)
    print_sinks(receipt, command=not is_delivered)
    print_skipped(receipt.skipped)


def _ended(summary: RunSummary, receipt: Receipt) -> str:
    if receipt.status:
        return " (ended)"
    return " (ended without closing the run)" if summary.status == "killed" else ""


def _lost(receipt: Receipt) -> Iterator[str]:
    counts = receipt.counts
    if counts.offered != counts.journaled:
        waiting = counts.offered - counts.journaled - counts.lost
        unwritten = f", {waiting} not yet written" if waiting else ""
        yield f"this attempt: {counts.offered} offered, {counts.journaled} journaled, {counts.lost} lost{unwritten}"
    if counts.dropped:
        yield counts.dropped_text()


def _advice(summary: RunSummary, heartbeat: Heartbeat | None) -> Iterator[str]:
    """Yield what is wrong with the run, if anything, and the next command."""
    path = shell_path(summary.folder)
    if summary.status in {"killed", "preempted"}:
        known = TRAINER in summary.header.versions
        yield f"resume: aimnet2mult train --resume {path}" if known else "resume: run its training program again"
    elif summary.status == "failed":
        yield f"see what happened: telemetry show {path}"
    elif heartbeat is None:
        return
    elif summary.status == "unseen":
        check = f"squeue --job {heartbeat.job.job}" if heartbeat.job else f"telemetry status {path}"
        where = "check the job" if heartbeat.job else f"check on {heartbeat.trainer.host}"
        yield f"last heartbeat {age(_heartbeat_age(summary.folder))}; {where}: {check}"
    elif summary.status == "running" and (problem := _problem(summary, _heartbeat_age(summary.folder))):
        yield f"PROBLEM: {problem}"
        if heartbeat.trainer.is_local():
            yield f"look at the process: ps -o pid,stat,etime,wchan:20,args -p {heartbeat.trainer.pid}"


def _problem(summary: RunSummary, heartbeat_age: int) -> str:
    """Return why a trainer that is alive seems to hang; empty if it does not."""
    if heartbeat_age > 1000 * HEARTBEAT_TIMEOUT:
        expected = f"one is written every {HEARTBEAT_INTERVAL:.0f} s"
        return f"last heartbeat {age(heartbeat_age)}, but {expected}: the process is stopped or waits for a disk"
    silence = now_ms() - summary.point_time
    if summary.longest_interval and silence > max(1000 * MIN_SILENCE, STALL_FACTOR * summary.longest_interval):
        before = f"before that, one arrived at least every {summary.longest_interval / 1000:.3g} s"
        return f"last point {age(silence)}; {before}: the training seems to hang"
    return ""


def _heartbeat_age(run: Path) -> int:
    """Return the time since the last heartbeat in ms, by the clock of the file system."""
    try:
        return int(1000 * (time.time() - heartbeat_path(run).stat().st_mtime))
    except OSError:
        return 0
