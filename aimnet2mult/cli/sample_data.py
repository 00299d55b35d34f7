"""``aimnet2mult sample-data``: copy the sample data set."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from pathlib import Path

import click

from aimnet2mult.cli.console import HELP, UserPath
from telemetry.run_folder.paths import shell_path
from telemetry.terminal import print_line

SAMPLE = Path(__file__).parents[1] / "sample"


@click.command("sample-data", context_settings=HELP)
@click.argument("folder", metavar="DIR", type=UserPath(file_okay=False))
@click.option("--xyz", is_flag=True, help="Also write the data as extended xyz; requires ASE.")
def sample_data(folder: Path, *, xyz: bool) -> None:
    """Write a small data set to DIR.

    It has two fidelities, and comes with settings and a model to train on it.
    """
    if xyz and (missing := [name for name in ("ase", "h5py") if find_spec(name) is None]):
        raise click.ClickException(
            f"required packages are not installed: {', '.join(missing)}; run: pip install 'aimnet2mult[convert]'"
        )
    files = sorted(path for path in SAMPLE.iterdir() if path.suffix in (".h5", ".yaml", ".md"))
    for path in files:
        copy = folder / path.name
        if os.path.lexists(copy) and not _is_copy(copy, path):
            raise click.ClickException(f"{copy} already exists with other content; remove it or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            with contextlib.suppress(FileExistsError), (folder / path.name).open("xb") as file:
                file.write(path.read_bytes())
        names = [path.name for path in files]
        for path in files if xyz else ():
            if path.suffix == ".h5":
                from aimnet2mult.sample.xyz import write_xyz

                names.append(f"{path.stem}.xyz")
                with contextlib.suppress(FileExistsError):
                    write_xyz(path, folder / names[-1])
    except OSError as error:
        raise click.ClickException(f"cannot write to {folder}: {error.strerror}") from error
    print_line(f"wrote {', '.join(names)} to {folder}")
    config, model = (shell_path(folder / name) for name in ("train.yaml", "model.yaml"))
    print_line(f"to train: aimnet2mult train --config {config} --model {model}")


def _is_copy(copy: Path, path: Path) -> bool:
    return copy.is_file() and copy.read_bytes() == path.read_bytes()
