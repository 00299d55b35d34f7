"""``aimnet2mult convert``: convert data of other programs, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import click

from aimnet2mult.cli.check_data import show_report
from aimnet2mult.cli.console import EXISTING_DATA, EXISTING_FILE, HELP, UserPath
from aimnet2mult.cli.interrupts import exiting_on_signals
from telemetry.errors import did_you_mean
from telemetry.terminal import print_line


class Assignment(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.2
    """``KEY=VALUE``."""

    name = "assignment"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the key and the value."""
        key, _, text = value.partition("=")
        if not text:
            self.fail(f"{value!r} is not {key or 'KEY'}=VALUE", param, ctx)
        return key, text


def _unique(option: str, pairs: tuple[tuple[str, str], ...], known: Collection[str]) -> dict[str, str]:
    """Return the values by key.

    Raises:
        UsageError: A key is repeated or unknown.
    """
    for key, _ in pairs:
        if key not in known:
            wrong = f"{key!r} is none of {', '.join(known)}{did_you_mean(key, known)}"
            raise click.BadParameter(wrong, param_hint=f"'{option}'")
    counts = Counter(key for key, _ in pairs)
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise click.UsageError(f"{option} is given more than once for {', '.join(repeated)}")
    return dict(pairs)


@click.command("convert", context_settings=HELP)
@click.argument("inputs", metavar="INPUT...", type=EXISTING_DATA, nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT.h5", type=UserPath(dir_okay=False), required=True, help="File to write.")
@click.option(
    "--key",
    "keys",
    metavar="KEY=NAME",
    type=Assignment(),
    multiple=True,
    help="Name of an array in the input, such as energy=dft_energy; none leaves it out; repeatable.",
)
@click.option(
    "--unit",
    "units",
    metavar="KEY=UNIT",
    type=Assignment(),
    multiple=True,
    help="Unit of energy (default: eV), forces (eV/Å), coord (Å) or another label in the input; repeatable.",
)
@click.option(
    "--config", "configs", type=EXISTING_FILE, multiple=True, help="YAML file of settings with labels; repeatable."
)
@click.option("--charge", type=int, help="Total charge of structures that state none, in e.")
@click.option("--mult", type=click.IntRange(min=1), help="Spin multiplicity of structures that state none.")
@click.option("--ignore-cell", is_flag=True, help="Treat periodic structures as isolated molecules.")
@click.pass_context
def convert(
    context: click.Context,
    *,
    inputs: tuple[Path, ...],
    output: Path,
    keys: tuple[tuple[str, str], ...],
    units: tuple[tuple[str, str], ...],
    configs: tuple[Path, ...],
    charge: int | None,
    mult: int | None,
    ignore_cell: bool,
) -> None:
    """Convert data to the HDF5 layout that is trained on, and check them.

    INPUTs are extended xyz (.xyz, .extxyz, also with .gz), ASE databases (.db), ASE trajectories (.traj), NumPy
    archives (.npz) and folders of NumPy archives. All of them are written to one file, in eV, Å and e. A label that
    some structures lack is NaN there. OUT.h5 must not exist. The exit code is 1 if the checks find errors.
    """
    if missing := [name for name in ("ase", "h5py") if find_spec(name) is None]:
        raise click.ClickException(
            f"required packages are not installed: {', '.join(missing)}; run: pip install 'aimnet2mult[convert]'"
        )
    from aimnet2mult.config.data_units import convertible
    from aimnet2mult.config.schema import load_data_settings
    from aimnet2mult.data.checks import check_files
    from aimnet2mult.data.conversion.convert import Options
    from aimnet2mult.data.conversion.convert import convert as convert_files
    from aimnet2mult.quantities import INPUTS
    from telemetry.run_folder.atomic_write import remove_temporary_files

    labels = load_data_settings(configs, ()).known_labels
    stated = {"charge": charge, "mult": mult}
    options = Options(
        names=_unique("--key", keys, (*INPUTS, *labels)),
        units=_unique("--unit", units, convertible(labels)),
        labels=labels,
        defaults={key: value for key, value in stated.items() if value is not None},
        ignore_cell=ignore_cell,
    )
    # The temporary file may be large, and nobody would look for it.
    with exiting_on_signals(lambda: remove_temporary_files(output)):
        lines = convert_files(inputs, output, options, lambda line: print_line(line, err=True))
    for line in lines:
        print_line(line)
    report = check_files([output], labels=tuple(labels.values()))
    show_report(report)
    if not report.ok or len(report.warnings):
        print_line(f"to correct names or units, remove {output} and convert again with --key and --unit")
    context.exit(0 if report.ok else 1)
