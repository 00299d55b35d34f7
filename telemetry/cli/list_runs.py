"""``telemetry list``: list the runs in a folder."""

from __future__ import annotations

from pathlib import Path

import click

from telemetry.cli.console import PATH, exits_with_message, print_line
from telemetry.errors import SettingError
from telemetry.reading.run_list import RunTable
from telemetry.records import now_ms


@click.command("list")
@click.argument("folder", default="runs", metavar="[DIR]", type=PATH)
@click.option(
    "--best",
    "metric",
    metavar="METRIC",
    help="Show the best value of this metric (full name), best run first; by default val/loss, newest run first.",
)
@click.option("--quick", is_flag=True, help="Omit the best value; read only the head and tail of each journal.")
@exits_with_message
def list_runs(folder: Path, metric: str | None, quick: bool) -> None:
    """List the runs in a folder.

    DIR contains the run folders (default: runs).
    """
    if quick and metric is not None:
        msg = f"--quick omits the value that --best {metric} requests; use only one of the two"
        raise SettingError(msg)
    for line in RunTable(folder, metric, quick=quick).lines(now_ms()):
        print_line(line)
