"""``telemetry status``: show the status of a run and the progress of each sink."""

from __future__ import annotations

from pathlib import Path

import click

from telemetry.cli.console import RUN, exits_with_message, print_line, print_sinks, print_skipped
from telemetry.delivery.receipt import Receipt, read_receipt
from telemetry.display.dashboard import STATUS_TEXTS
from telemetry.journal.reader import read_header
from telemetry.run_folder.heartbeat import read_heartbeat
from telemetry.run_folder.run_status import run_status
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe


@click.command()
@click.argument("run", type=RUN)
@exits_with_message
def status(run: Path) -> None:
    """Show the status of a run and of its sinks.

    RUN is a run folder, or the ID or name of a run in ./runs.
    """
    header = read_header(run)
    receipt = read_receipt(run)
    heartbeat = read_heartbeat(run)
    print_line(f"{header.name} ({header.run_id}), attempt {header.attempt}: {_status_text(run, receipt)}")
    if heartbeat is not None:
        print_line(f"trainer: {heartbeat.trainer}{' (ended)' if receipt.status else ''}")
    print_line(f"last point at iteration {receipt.step}; {receipt.journaled} records in the journal")
    counts = receipt.counts
    if counts.offered != counts.journaled:
        print_line(f"this attempt: {counts.offered} offered, {counts.journaled} journaled, {counts.lost} lost")
    if counts.dropped:
        print_line(counts.dropped_text())
    print_sinks(receipt)
    print_skipped(receipt.skipped)


def _status_text(run: Path, receipt: Receipt) -> str:
    status = run_status(receipt.status, TrainerLivenessProbe(run))
    return STATUS_TEXTS.get(status, status) + (f" ({receipt.reason})" if receipt.reason else "")
