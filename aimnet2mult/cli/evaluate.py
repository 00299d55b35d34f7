"""``aimnet2mult evaluate``: evaluate a model on data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import HELP, Count, UserPath, require_training_packages
from aimnet2mult.config.resume_rules import find_run
from aimnet2mult.config.user_path import expand_user
from telemetry.settings import Settings
from telemetry.terminal import print_data, print_line

if TYPE_CHECKING:
    from aimnet2mult.evaluation.results import Result
    from aimnet2mult.quantities import Label


@click.command(context_settings=HELP)
@click.argument("model", metavar="RUN|WEIGHTS")
@click.argument("words", metavar="[DATA]... [KEY=VALUE]...", nargs=-1)
@click.option(
    "--fidelity", metavar="NAME", help="Fidelity of all DATA files; without DATA, the only one of the run to evaluate."
)
@click.option(
    "--split",
    "part",
    type=click.Choice(["train", "test", "val", "all"]),
    help="Part of the data of the run, if no DATA are given (default: val).",
)
@click.option(
    "--weights",
    type=click.Choice(["best", "last"]),
    default="best",
    help="Weights of RUN: those of the best validation (default), or of the last checkpoint.",
)
@click.option(
    "--by",
    metavar="NAME",
    multiple=True,
    help="Group errors by fidelity, element, size, charge, mult, or an array of the files such as source; repeatable. "
    "Default: all with 2 to 20 groups.",
)
@click.option(
    "--worst",
    metavar="N",
    type=click.IntRange(min=0),
    default=5,
    help="Number of structures with the largest errors to list for each label (default: 5).",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=UserPath(),
    help="Folder to create, for the results in JSON, plots, and the structures with the largest errors in xyz.",
)
@click.option("--predictions", is_flag=True, help="Also write the predictions to DIR, in HDF5 files like the data.")
@click.option("--no-plots", is_flag=True, help="Draw no plots.")
@click.option("--batch-size", metavar="N", type=Count(), help="Batch size (default: that of the run's validation).")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Device (default: that of the run).")
@click.option(
    "--allow-package",
    "allow_packages",
    metavar="NAME",
    multiple=True,
    help="Trust the classes and functions of another package that the settings of RUN name; repeatable."
    " [env: AIMNET2MULT_ALLOW_PACKAGE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def evaluate(
    *,
    model: str,
    words: tuple[str, ...],
    fidelity: str | None,
    part: Literal["train", "test", "val", "all"] | None,
    weights: Literal["best", "last"],
    by: tuple[str, ...],
    worst: int,
    output: Path | None,
    predictions: bool,
    no_plots: bool,
    batch_size: int | None,
    device: str | None,
    allow_packages: tuple[str, ...],
    as_json: bool,
) -> int:
    """Evaluate a model on data.

    Prints RMSE, MAE, R² and the largest error of each label: of all structures, and by fidelity, element, number of
    atoms, and other properties of the structures. The model is a run folder, or a file that train --save has written.

    Without DATA, the validation data of the run are evaluated, with the results of the validation during training.
    Otherwise, DATA are one HDF5 file for each fidelity, in their order, or any number of files for --fidelity:

        aimnet2mult evaluate RUN --fidelity wb97m new.h5 data.units.energy=Ha -o results

    Settings as in training: data.keys, data.units, data.on_bad_structure and others of DATA, telemetry.units.
    """
    # Names of folders may contain an equals sign, too, such as lr=0.1.
    overrides = [word for word in words if "=" in word and not expand_user(word).exists()]
    files = [expand_user(word) for word in words if word not in overrides]
    path = expand_user(model)
    if not path.is_file():
        path = find_run(model, expand_user(Settings().dir))
    if files and part is not None:
        raise click.UsageError("--split is for the data of a run; leave it out, or leave out the DATA files")
    if not files and path.is_file():
        raise click.UsageError(f"{model} is a weight file, which has no data; give DATA files, or the run folder")
    if predictions and output is None:
        raise click.UsageError("--predictions needs a folder: add -o DIR")
    require_training_packages()
    ensure_cache_folder()
    from aimnet2mult.evaluation.request import Request
    from aimnet2mult.evaluation.runner import run

    flags = {"data.samplers.val.batch_size": batch_size, "device": device}
    request = Request(
        model=path,
        files=files,
        fidelity=fidelity,
        part=part or "val",
        weights=weights,
        overrides=[*overrides, *(f"{key}={value}" for key, value in flags.items() if value is not None)],
        by=by,
        worst=worst,
        output=output,
        predictions=predictions,
        plots=not no_plots,
        allow_packages=allow_packages,
    )
    return run(request, _print_json if as_json else _print_tables, lambda line: print_line(line, err=True))


def _print_json(result: Result, _: tuple[Label, ...]) -> None:
    print_data(json.dumps(result.to_dict(), indent=2))


def _print_tables(result: Result, labels: tuple[Label, ...]) -> None:
    from aimnet2mult.evaluation.table import describe

    for line in describe(result, labels):
        print_line(line)
