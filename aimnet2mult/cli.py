"""The command line. A command imports what is heavy only after its arguments are checked."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["calc_sae", "cli", "main", "run", "sample_data", "train"]

HELP = {"help_option_names": ["-h", "--help"]}
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
SAMPLE = Path(__file__).with_name("sample")

# Modules that training needs, by the name under which the `train` extra installs them.
TRAINING = ("torch", "aimnet", "ignite", "h5py", "tqdm")


def main() -> NoReturn:
    """Run `aimnet2mult`."""
    run(cli, "aimnet2mult")


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: with 2 and one line on stderr for an error that the user can mend."""
    # Light imports. Errors of torch and the like are not the user's to mend and keep their traceback.
    from aimnet2mult.config import ConfigError
    from aimnet2mult.data.errors import DataError
    from aimnet2mult.models.errors import ModelError
    from aimnet2mult.train.checkpoint import CheckpointError
    from aimnet2mult.train.ranks import RankLost
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


@click.group(invoke_without_command=True, context_settings=HELP)
@click.version_option(version("aimnet2mult"), prog_name="aimnet2mult")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train AIMNet2 on data of several fidelities, and watch it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(context_settings=HELP)
@click.option("--config", "configs", type=EXISTING, multiple=True, help="YAML of settings; later ones win. Repeatable.")
@click.option("--model", type=EXISTING, help="YAML of the model; without it, AIMNet2 as published.")
@click.option("--load", type=EXISTING, help="Weights to start from.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Where to put the final weights.")
@click.option(
    "--resume", metavar="RUN|auto", help="Go on with a run: its folder, its id, or auto: the newest unfinished one."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch.")
@click.option(
    "--telemetry-sinks",
    metavar="NAME,...",
    help="Where the curves go, such as tensorboard; none: the journal alone. [env: TELEMETRY_SINKS]",
)
@click.option("--telemetry-every", type=click.IntRange(min=1), help="Iterations from point to point.")
@click.option("--telemetry-dir", metavar="DIR", help="Folder of the run folders.")
@click.option(
    "--telemetry-on-divergence",
    type=click.Choice(["warn", "stop"]),
    help="What to do when the training diverges: warn and go on, or stop and keep the last good checkpoint.",
)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
def train(
    *,
    configs: tuple[Path, ...],
    model: Path | None,
    load: Path | None,
    save: Path | None,
    resume: str | None,
    threads: int | None,
    telemetry_sinks: str | None,
    telemetry_every: int | None,
    telemetry_dir: str | None,
    telemetry_on_divergence: str | None,
    overrides: tuple[str, ...],
) -> int:
    """Train a model.

    Settings come from the defaults, each --config, and KEY=VALUE with dotted keys, the later winning:

        aimnet2mult train --config train.yaml data.fidelity_datasets.0=a.h5 trainer.epochs=10
    """
    _need_training()
    from aimnet2mult.train.plan import Request
    from aimnet2mult.train.runner import train as start

    environment = {"telemetry.sinks": os.environ.get("TELEMETRY_SINKS") or None}
    flags = {
        "load": load and str(load),
        "threads": threads,
        "telemetry.sinks": telemetry_sinks,
        "telemetry.every": telemetry_every,
        "telemetry.dir": telemetry_dir,
        "telemetry.on_divergence": telemetry_on_divergence,
    }
    request = Request(
        configs=configs,
        # The environment counts more than a file, and less than what is asked for here and now.
        overrides=(*_as_overrides(environment), *overrides, *_as_overrides(flags)),
        model=model,
        save=save,
        resume=resume,
    )
    return start(request)


@cli.command("calc-sae", context_settings=HELP)
@click.argument("data", type=EXISTING)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def calc_sae(data: Path, out: Path) -> None:
    """Fit the reference energies of the elements to the energies in DATA, and write them to OUT as YAML."""
    _need_training()
    from aimnet2mult.data.dataset import read_fidelity
    from aimnet2mult.data.sae import fit_sae, write_sae

    sae = fit_sae(read_fidelity(data, labels=("energy",)))
    write_sae(out, sae)
    click.echo(f"{out}: reference energies in eV of the elements {', '.join(map(str, sorted(sae)))}")


@cli.command("sample-data", context_settings=HELP)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def sample_data(folder: Path) -> None:
    """Write a small set of real data of two fidelities to DIR, with a configuration that trains it."""
    files = sorted(path for path in SAMPLE.iterdir() if path.suffix in (".h5", ".yaml", ".md"))
    for path in files:
        copy = folder / path.name
        if copy.exists() and copy.read_bytes() != path.read_bytes():
            raise click.ClickException(f"{copy} exists and is another file; remove it or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise click.ClickException(f"cannot write to {folder}: {error.strerror}") from error
    click.echo(f"{folder}: {', '.join(path.name for path in files)}")
    click.echo(f"train it: aimnet2mult train --config {folder / 'train.yaml'} --model {folder / 'model.yaml'}")


def _need_training() -> None:
    missing = [name for name in TRAINING if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"this needs {', '.join(missing)}, not installed here: pip install 'aimnet2mult[train]'"
        )


def _as_overrides(values: Mapping[str, object]) -> list[str]:
    """Write what was given as overrides; JSON is YAML that quotes what has to be quoted."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


if __name__ == "__main__":
    main()
