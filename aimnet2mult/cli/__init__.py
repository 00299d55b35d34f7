"""The ``aimnet2mult`` command, with one module per subcommand. Arguments are checked before slow imports."""

from __future__ import annotations

from aimnet2mult.cli.interrupts import conclude, exit_on_signals, exiting_on_signals

with exiting_on_signals():
    from importlib.metadata import version
    from typing import NoReturn

    import click

    from aimnet2mult.cli.calc_sae import calc_sae
    from aimnet2mult.cli.check_data import check_data
    from aimnet2mult.cli.console import HELP, run
    from aimnet2mult.cli.convert import convert
    from aimnet2mult.cli.export import export
    from aimnet2mult.cli.sample_data import sample_data
    from aimnet2mult.cli.train import train
    from telemetry.terminal import print_lines, protect_terminal
    from telemetry.usage import CommandGroup

__all__ = ["calc_sae", "check_data", "cli", "convert", "export", "main", "run", "sample_data", "train"]


def main() -> NoReturn:
    """Run the command and exit."""
    exit_on_signals()
    protect_terminal()
    try:
        run(cli, "aimnet2mult")
    finally:
        conclude()


@click.group(cls=CommandGroup, invoke_without_command=True, context_settings=HELP)
@click.version_option(version("aimnet2mult"), prog_name="aimnet2mult")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train AIMNet2 on data of several fidelities, and monitor the training."""
    if context.invoked_subcommand is None:
        print_lines(context.get_help())


for command in (train, export, convert, check_data, calc_sae, sample_data):
    cli.add_command(command)
