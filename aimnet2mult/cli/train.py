"""``aimnet2mult train``: train a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import EXISTING_FILE, HELP, Count, UserPath, require_training_packages, tolerant_output

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command(context_settings=HELP)
@click.option(
    "--config", "configs", type=EXISTING_FILE, multiple=True, help="YAML file of settings; repeatable. Later files win."
)
@click.option("--model", type=EXISTING_FILE, help="YAML definition of the model; default: AIMNet2 as published.")
@click.option("--load", type=UserPath(), help="Initial weights: a file, or a run folder.")
@click.option(
    "--save", type=UserPath(), help="Where to write the final weights; with --resume also those of a finished run."
)
@click.option(
    "--resume",
    metavar="RUN|auto",
    help="Resume a run, given by folder or ID, with its settings; auto: continue the run that the same command began, "
    "or start a new one.",
)
@click.option(
    "--allow-package",
    "allow_packages",
    metavar="NAME",
    multiple=True,
    help="Trust the classes and functions of another package that settings name, such as your own; repeatable."
    " [env: AIMNET2MULT_ALLOW_PACKAGE]",
)
@click.option("--threads", metavar="N", type=Count(), help="Number of CPU threads used by torch.")
@click.option(
    "--telemetry-sinks",
    metavar="NAME,...",
    help="Sinks to deliver to (default: tensorboard); none writes only the journal. [env: TELEMETRY_SINKS]",
)
@click.option("--telemetry-every", metavar="N", type=Count(), help="Iterations between points (default: 200).")
@click.option("--telemetry-dir", metavar="DIR", help="Parent folder of the run folders (default: runs).")
@click.option(
    "--telemetry-on-divergence",
    type=click.Choice(["warn", "stop"]),
    help="When the run diverges: warn and continue (default), or stop with exit code 3.",
)
@click.option("--verbose", is_flag=True, help="Print the settings, the model and its parameters.")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
def train(
    *,
    configs: tuple[Path, ...],
    model: Path | None,
    load: Path | None,
    save: Path | None,
    resume: str | None,
    allow_packages: tuple[str, ...],
    threads: int | None,
    telemetry_sinks: str | None,
    telemetry_every: int | None,
    telemetry_dir: str | None,
    telemetry_on_divergence: str | None,
    verbose: bool,
    overrides: tuple[str, ...],
) -> int:
    """Train a model.

    Settings are merged from the defaults, each --config, and KEY=VALUE with dotted keys; later ones win:

        aimnet2mult train --config train.yaml data.fidelity_datasets.0=a.h5 trainer.epochs=10
    """
    require_training_packages()
    ensure_cache_folder()
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
        # The environment overrides files, and the command line overrides the environment.
        overrides=(*_as_overrides(environment), *overrides, *_as_overrides(flags)),
        model=model,
        save=save,
        resume=resume,
        allow_packages=allow_packages,
        verbose=verbose,
    )
    with tolerant_output():
        return start(request)


def _as_overrides(values: Mapping[str, object]) -> list[str]:
    """Return the values that are not None as overrides, in JSON, which is valid YAML and quotes strings."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]
