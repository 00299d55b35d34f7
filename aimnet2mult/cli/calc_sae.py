"""``aimnet2mult calc-sae``: fit reference energies."""

from __future__ import annotations

from pathlib import Path

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import EXISTING_FILE, HELP, UserPath, require_training_packages


@click.command("calc-sae", context_settings=HELP)
@click.argument("data", type=EXISTING_FILE)
@click.argument("out", type=UserPath(dir_okay=False))
def calc_sae(data: Path, out: Path) -> None:
    """Fit a reference energy for each element in DATA, and write them to OUT as YAML."""
    require_training_packages()
    ensure_cache_folder()
    from aimnet2mult.data.checks import check_files
    from aimnet2mult.data.hdf5 import read_fidelity
    from aimnet2mult.data.label_summary import summarize_labels
    from aimnet2mult.data.reference_energies import apply_sae, fit_sae, write_sae

    report = check_files([data], labels=("energy",))
    report.raise_errors("skip")
    for line in [*report.warnings.lines(), *(f"left out: {line}" for line in report.bad_structures.lines())]:
        click.echo(f"warning: {line}", err=True)
    dataset = read_fidelity(data, labels=("energy",), skipped=report.skipped)
    sae = fit_sae(dataset.groups, data)
    write_sae(out, sae)
    click.echo(f"wrote {out}: reference energies (eV) of the elements {', '.join(map(str, sorted(sae)))}")
    apply_sae(dataset, sae, data)
    click.echo(summarize_labels(dataset.groups))
