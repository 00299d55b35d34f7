"""Shared by the commands: how errors end them, and what they require."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from aimnet2mult.errors import CheckpointError, ConfigError, DataError, ModelError, RankLost

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = {"help_option_names": ["-h", "--help"]}
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

TRAINING_PACKAGES = ("torch", "aimnet", "ignite", "h5py", "tqdm")
"""The import names of what the extra ``train`` installs."""


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: with 2 and one line on stderr for an error that the user can mend."""
    # Errors of torch and the like are not the user's to fix and keep their traceback.
    from telemetry import TelemetryError

    try:
        result = command.main(arguments, prog_name=name, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except (ConfigError, DataError, ModelError, CheckpointError, TelemetryError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except RankLost as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def require_training_packages() -> None:
    """Raise click.ClickException naming the packages of the extra ``train`` that are not installed."""
    missing = [name for name in TRAINING_PACKAGES if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"this needs {', '.join(missing)}, not installed here: pip install 'aimnet2mult[train]'"
        )
