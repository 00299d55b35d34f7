"""``aimnet2mult export``: write one fidelity of a model in aimnet's format, or in TorchScript."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import HELP, UserPath, require_training_packages
from telemetry.terminal import print_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aimnet2mult.models.predictor import Predictor


@click.command("export", context_settings=HELP)
@click.argument("model", metavar="RUN|WEIGHTS")
@click.argument("out", metavar="OUT.pt", type=UserPath(dir_okay=False))
@click.option("--fidelity", metavar="NAME", help="The fidelity to export; required if there are several.")
@click.option(
    "--weights",
    type=click.Choice(["best", "last"]),
    default="best",
    help="For a run: the weights of the best validation (default), or of the newest checkpoint.",
)
@click.option(
    "--d3",
    metavar="FUNCTIONAL|s8=…,a1=…,a2=…",
    help="Have the calculators add a D3(BJ) dispersion correction, with the parameters of a functional or these.",
)
@click.option("--torchscript", is_flag=True, help="Write TorchScript for the original's calculators, OUT.jpt.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--allow-package",
    "packages",
    metavar="NAME",
    multiple=True,
    help="Trust the classes of another package that the model names, such as your own; repeatable."
    " [env: AIMNET2MULT_ALLOW_PACKAGE]",
)
def export(
    *,
    model: str,
    out: Path,
    fidelity: str | None,
    weights: Literal["best", "last"],
    d3: str | None,
    torchscript: bool,
    force: bool,
    packages: tuple[str, ...],
) -> None:
    """Write one fidelity of a model for use in other programs.

    RUN is a run folder, or the name of one in the folder runs; WEIGHTS is a file written by --save. OUT.pt is in
    aimnet's own format, with the reference energies: aimnet.calculators.AIMNet2ASE and other programs for AIMNet2 read
    it. Before it is written, its energies and forces are compared with those of the model.
    """
    _check(out, d3, torchscript=torchscript, force=force)
    require_training_packages()
    ensure_cache_folder()
    from aimnet2mult.config.import_path import allow_packages
    from aimnet2mult.models.dispersion import read_d3
    from aimnet2mult.models.predictor import Predictor
    from aimnet2mult.models.saved_model import find_saved_model, read_saved_model

    parameters = None if d3 is None else read_d3(d3)
    with allow_packages(packages):
        saved = read_saved_model(find_saved_model(model), weights)
        predictor = Predictor(saved, fidelity, device="cpu")
        try:
            notices = _write_torchscript(predictor, out) if torchscript else _write(predictor, out, parameters)
        except OSError as error:
            raise click.ClickException(f"cannot write to {out}: {error.strerror or error}") from error
    print_line(f"wrote {out}: fidelity {predictor.fidelity} of {saved.source}")
    if untrained := sorted(saved.untrained_labels(predictor.index)):
        notices.append(f"do not use its {', '.join(untrained)}: the training data of {predictor.fidelity} have none")
    for line in notices:
        print_line(line)


def _check(out: Path, d3: str | None, *, torchscript: bool, force: bool) -> None:
    """Check what can be checked without slow imports."""
    if (out.suffix == ".jpt") != torchscript:
        raise click.UsageError(
            f"{out}: TorchScript needs the suffix .jpt"
            if torchscript
            else f"{out}: the suffix .jpt is for TorchScript; add --torchscript, or choose the suffix .pt"
        )
    if torchscript and d3:
        raise click.UsageError("--d3 is not available with --torchscript")
    folder = out.absolute().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.UsageError(f"cannot write to the folder {folder}; create it or choose another")
    if out.exists() and not force:
        raise click.UsageError(f"{out} already exists; remove it, choose another name, or add --force")


def _write(predictor: Predictor, out: Path, d3: Mapping[str, float] | None) -> list[str]:
    """Write aimnet's format, and return what its user has to do in addition."""
    from aimnet2mult.models.export import export_fidelity, write_export
    from aimnet2mult.models.export_check import calculator_settings, check_export

    exported = export_fidelity(predictor.saved, predictor.index, d3)
    check_export(exported, predictor, added_d3=d3 is not None)
    write_export(exported, out)
    notices = []
    if exported.import_paths:
        notices.append(f"to load it: AIMNet2Calculator({str(out)!r}, model_import_paths={[*exported.import_paths]!r})")
    for method, arguments in calculator_settings(exported):
        text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        notices.append(f"as in training, call calculator.{method}({text}) after loading it")
    return notices


def _write_torchscript(predictor: Predictor, out: Path) -> list[str]:
    from aimnet2mult.models.torchscript import export_torchscript, write_torchscript

    write_torchscript(export_torchscript(predictor), out)
    return []
