"""The command ``compile_jit`` of the original project, which exports a model with ``aimnet2mult export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import EXISTING_FILE, HELP, require_training_packages
from aimnet2mult.cli.export import export
from aimnet2mult.errors import ConfigError
from telemetry.terminal import print_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aimnet2mult.models.saved_model import SavedModel

FUNCTIONALS = {"bp86": "bp"}
"""Names of functionals in dftd3, where the original has another one."""


@click.command("compile_jit", context_settings=HELP)
@click.option("--weights", type=EXISTING_FILE, required=True, help="File of weights, written by --save.")
@click.option("--model", type=EXISTING_FILE, required=True, help="Compared with the model in the weights.")
@click.option("--output", metavar="PREFIX", required=True, help="Writes PREFIX_fidN.jpt, with d3bj PREFIX_fidN.pt.")
@click.option("--fidelity-level", metavar="N", type=click.IntRange(min=0), required=True, help="Index of the fidelity.")
@click.option("--fidelity-offset", type=int, default=200, help="Compared with the weights.")
@click.option("--num-fidelities", type=int, required=True, help="Compared with the weights.")
@click.option("--use-fidelity-readouts", type=bool, default=True, help="Compared with the weights.")
@click.option("--sae", type=EXISTING_FILE, required=True, help="Compared with the reference energies in the weights.")
@click.option("--dispersion", type=click.Choice(["none", "d3bj", "d4"]), default="none", help="d4 is not implemented.")
@click.option("--dispersion-functional", metavar="NAME", help="Functional, for the parameters of D3(BJ).")
@click.option("--dispersion-s6", type=float, default=1.0, help="Parameter of D3(BJ).")
@click.option("--dispersion-s8", type=float, help="Parameter of D3(BJ).")
@click.option("--dispersion-a1", type=float, help="Parameter of D3(BJ).")
@click.option("--dispersion-a2", type=float, help="Parameter of D3(BJ).")
def compile_jit(*, weights: Path, output: str, fidelity_level: int, **options: Any) -> None:
    """Export a fidelity as `aimnet2mult export` does.

    Everything about the model is read from the weights; options that contradict it are errors. Without dispersion, the
    file is TorchScript, for the calculators of the original; with it, the file is in aimnet's format.
    """
    dispersion = _dispersion(options)
    require_training_packages()
    ensure_cache_folder()
    from aimnet2mult.models.saved_model import read_saved_model

    saved = read_saved_model(weights)
    if problems := [f"{weights}: {text}" for text in _contradictions(saved, fidelity_level, options)]:
        raise ConfigError("\n".join(problems))
    prefix = output.removesuffix(".pt").removesuffix(".jpt")
    out = f"{prefix}_fid{fidelity_level}{'.pt' if dispersion else '.jpt'}"
    how = ["--d3", dispersion] if dispersion else ["--torchscript"]
    print_line(f"with dispersion, the model is written in aimnet's format: {out}" if dispersion else f"writing {out}")
    name = saved.fidelity_names[fidelity_level]
    export.main([str(weights), out, "--fidelity", name, "--force", *how], standalone_mode=False)


def _dispersion(options: Mapping[str, Any]) -> str | None:
    """Return the value of ``--d3``; None without dispersion."""
    if options["dispersion"] == "none":
        return None
    if options["dispersion"] == "d4":
        raise click.UsageError("--dispersion d4 is not implemented; use d3bj, or add D4 where the model is used")
    given = {key: options[f"dispersion_{key}"] for key in ("s8", "a1", "a2")}
    if any(value is not None for value in given.values()):
        if missing := [f"--dispersion-{key}" for key, value in given.items() if value is None]:
            raise click.UsageError(f"--dispersion d3bj also needs {', '.join(missing)}")
        return ",".join(f"{key}={options[f'dispersion_{key}']}" for key in ("s6", "s8", "a1", "a2"))
    if options["dispersion_functional"] is None:
        raise click.UsageError("--dispersion d3bj needs --dispersion-functional, or s8, a1 and a2")
    name: str = options["dispersion_functional"].lower().replace("-", "").replace("_", "")
    return FUNCTIONALS.get(name, name)


def _contradictions(saved: SavedModel, level: int, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options that do not describe the weights."""
    from aimnet2mult.data.reference_energies import read_sae
    from aimnet2mult.models.definition import read_definition

    count = len(saved.fidelity_names)
    given: dict[str, tuple[object, object]] = {"--num-fidelities": (options["num_fidelities"], count)}
    if count > 1:
        given["--fidelity-offset"] = (options["fidelity_offset"], saved.fidelity_offset)
        given["--use-fidelity-readouts"] = (options["use_fidelity_readouts"], saved.use_fidelity_readouts)
    for name, (value, true) in given.items():
        if value != true:
            yield f"{name} is {value}, but was {true} in training"
    if read_definition(options["model"], saved.fidelity_offset if count > 1 else None) != saved.definition:
        yield f"--model {options['model']} is not the model that was trained"
    if level >= count:
        yield f"--fidelity-level is {level}, but the weights have the fidelities 0 to {count - 1}"
    elif read_sae(options["sae"]) != saved.reference_energies[level]:
        yield f"--sae {options['sae']} has other energies than those subtracted from fidelity {level} in training"
