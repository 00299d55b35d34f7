"""``aimnet2mult sample-data``: write out the sample data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from aimnet2mult.cli.console import HELP

SAMPLE = Path(__file__).parents[1] / "sample"


@click.command("sample-data", context_settings=HELP)
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
