"""The ``telemetry`` command, with one module per subcommand."""

from __future__ import annotations

import click

from telemetry.cli.console import Commands
from telemetry.cli.export import export
from telemetry.cli.list_runs import list_runs
from telemetry.cli.report import report
from telemetry.cli.show import show
from telemetry.cli.sinks import sinks
from telemetry.cli.status import status
from telemetry.cli.sync import sync
from telemetry.cli.view import view
from telemetry.terminal import print_lines


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aimnet2mult", prog_name="telemetry")
@click.pass_context
def main(context: click.Context) -> None:
    """Inspect, export and deliver the telemetry of training runs."""
    if context.invoked_subcommand is None:
        print_lines(context.get_help())


for command in (export, list_runs, report, show, sinks, status, sync, view):
    main.add_command(command)
