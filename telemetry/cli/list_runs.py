"""``telemetry list``: list the runs in a folder."""

from __future__ import annotations

from pathlib import Path

import click

from telemetry.cli.console import FOLDER, exits_with_message, say
from telemetry.errors import SettingError
from telemetry.reading.run_list import RunTable
from telemetry.records import now_ms


@click.command("list")
@click.argument("folder", default="runs", metavar="[DIR]", type=FOLDER)
@click.option(
    "--best", "metric", metavar="METRIC", help="Show the lowest value of this metric, by its full name; else val/loss."
)
@click.option(
    "--quick", is_flag=True, help="Leave that value out: only the head and the tail of each journal are read."
)
@exits_with_message
def list_runs(folder: Path, metric: str | None, quick: bool) -> None:
    """List the runs in DIR (the folder of the run folders; runs by default), the latest first."""
    if quick and metric is not None:
        msg = f"--quick leaves out what --best {metric} asks for; give one of them"
        raise SettingError(msg)
    for line in RunTable(folder, metric, quick=quick).lines(now_ms()):
        say(line)
