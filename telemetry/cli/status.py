"""``telemetry status``: show the state of a run and the progress of each sink."""

from __future__ import annotations

from pathlib import Path

import click

from telemetry.cli.console import exits_with_message, say, say_skipped, show_sinks
from telemetry.delivery.receipt import Receipt, read_receipt
from telemetry.display.dashboard import STANDING
from telemetry.journal.reader import read_header
from telemetry.run_folder.heartbeat import TrainerLivenessProbe, read_heartbeat
from telemetry.run_folder.run_status import run_status


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@exits_with_message
def status(run: Path) -> None:
    """Say how RUN (a run folder) stands, and how far each sink has got."""
    header = read_header(run)
    summary = read_receipt(run)
    alive = read_heartbeat(run)
    say(f"{header.name} ({header.run_id}), attempt {header.attempt}: {_state(run, summary)}")
    if alive is not None:
        say(f"trainer: {alive.trainer}{', which has ended' if summary.status else ''}")
    click.echo(f"last point at iteration {summary.step}; {summary.journaled} records in the journal")
    if summary.counts.offered != summary.counts.journaled:
        counts = summary.counts
        click.echo(f"this attempt: {counts.offered} offered, {counts.journaled} journaled, {counts.lost} lost")
    show_sinks(summary)
    say_skipped(summary.skipped)


def _state(run: Path, summary: Receipt) -> str:
    how = run_status(summary.status, TrainerLivenessProbe(run))
    return STANDING.get(how, how) + (f" ({summary.reason})" if summary.reason else "")
