"""Error handling and package checks of the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from aimnet2mult.errors import CheckpointError, ConfigError, DataError, ModelError, RankLost

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = {"help_option_names": ["-h", "--help"]}
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

TRAINING_PACKAGES = ("torch", "aimnet", "ignite", "h5py", "tqdm")
"""Import names of the packages that the extra ``train`` installs."""


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit.

    Errors that the user can fix give exit code 2 and one line on stderr; the loss of another rank gives 1, and an
    interrupt 130. Other errors keep their traceback.
    """
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
    """Check that the packages of the extra ``train`` are installed.

    Raises:
        click.ClickException: Some are missing; the message names them and the extra.
    """
    from telemetry.plugins.optional_imports import is_installed

    missing = [name for name in TRAINING_PACKAGES if not is_installed(name)]
    if missing:
        raise click.ClickException(
            f"required packages are not installed: {', '.join(missing)}; run: pip install 'aimnet2mult[train]'"
        )
