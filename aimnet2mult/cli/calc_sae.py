"""``aimnet2mult calc-sae``: fit reference energies."""

from __future__ import annotations

from pathlib import Path

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import EXISTING_FILE, HELP, UserPath, require_training_packages
from telemetry.terminal import print_line, print_lines


@click.command("calc-sae", context_settings=HELP)
@click.argument("data", type=EXISTING_FILE)
@click.argument("out", type=UserPath(dir_okay=False))
@click.argument("settings", metavar="[KEY=VALUE]...", nargs=-1)
def calc_sae(data: Path, out: Path, settings: tuple[str, ...]) -> None:
    """Fit reference energies of the elements.

    Reads the energies in DATA as training does, and writes one value in eV for each element to OUT, in YAML. Settings
    such as data.units.energy=Ha or data.keys.energy=E_wb97m are those of training.
    """
    require_training_packages()
    ensure_cache_folder()
    from aimnet2mult.config.schema import load_data_settings
    from aimnet2mult.data.checks import check_files
    from aimnet2mult.data.file_format import FileFormat
    from aimnet2mult.data.hdf5 import read_fidelity
    from aimnet2mult.data.label_summary import summarize_labels
    from aimnet2mult.data.reference_energies import apply_sae, fit_sae, write_sae
    from aimnet2mult.quantities import LABELS

    energy = (LABELS["energy"],)
    section = load_data_settings((), settings)
    file_format = FileFormat.from_settings(section.keys, section.units.to_dict(), allow_external=section.allow_external)
    report = check_files(
        [data],
        labels=energy,
        required=energy,
        file_format=file_format,
        min_distance=section.min_distance,
    )
    report.raise_errors("skip")
    for line in [*report.warnings.lines(), *(f"left out: {line}" for line in report.bad_structures.lines())]:
        print_line(f"warning: {line}", err=True)
    dataset = read_fidelity(data, labels=energy, file_format=file_format, skipped=report.skipped)
    sae = fit_sae(dataset.groups, data)
    write_sae(out, sae)
    print_line(f"wrote {out}: reference energies (eV) of the elements {', '.join(map(str, sorted(sae)))}")
    apply_sae(dataset, sae, data)
    print_lines(summarize_labels(dataset.groups))
