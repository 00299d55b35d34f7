"""``aimnet2mult calc-sae``: fit reference energies."""

from __future__ import annotations

from pathlib import Path

import click

from aimnet2mult.cli.cache_folder import ensure_cache_folder
from aimnet2mult.cli.console import EXISTING_DATA, HELP, UserPath, require_training_packages
from telemetry.terminal import print_line, print_lines


@click.command("calc-sae", context_settings=HELP)
@click.argument("data", type=EXISTING_DATA)
@click.argument("out", type=UserPath(dir_okay=False))
@click.option(
    "--samples", metavar="N", type=int, default=0, help="Fit N random structures (default: all structures, like 0)."
)
@click.option("--verbose", is_flag=True, help="Print the reference energies.")
@click.argument("settings", metavar="[KEY=VALUE]...", nargs=-1)
def calc_sae(data: Path, out: Path, samples: int, settings: tuple[str, ...], *, verbose: bool) -> None:
    """Fit reference energies of the elements.

    Reads the energies in DATA as training does, and writes one value in eV for each element to OUT, in YAML. Settings
    such as data.units.energy=Ha or data.keys.energy=E_wb97m are those of training.
    """
    require_training_packages()
    ensure_cache_folder()
    import numpy as np

    from aimnet2mult.config.schema import load_data_settings
    from aimnet2mult.data.checks import check_files
    from aimnet2mult.data.file_format import FileFormat
    from aimnet2mult.data.label_summary import summarize
    from aimnet2mult.data.reference_energies import check_references, fit_sae, random_subset, sae_to_yaml, write_sae
    from aimnet2mult.quantities import LABELS
    from aimnet2mult.train.data_progress import progress

    energy = (LABELS["energy"],)
    config = load_data_settings((), settings)
    file_format = FileFormat.from_config(config)
    report = check_files(
        [data],
        labels=energy,
        required=energy,
        file_format=file_format,
        min_distance=config.data.min_distance,
        progress=progress,
    )
    report.raise_errors("skip")
    for line in [*report.warnings.lines(), *(f"left out: {line}" for line in report.bad_structures.lines())]:
        print_line(f"warning: {line}", err=True)
    content = report.contents[str(data)]
    known = content.good & np.isfinite(content.energy)
    compositions, energies = content.compositions(known), content.energy[known]
    if samples > 0:
        chosen = random_subset(compositions, samples)
        compositions, energies = compositions.select(chosen), energies[chosen]
    sae = fit_sae(compositions, energies, data)
    write_sae(out, sae)
    print_line(f"wrote {out}: reference energies (eV) of the elements {', '.join(map(str, sorted(sae)))}")
    if verbose:
        print_lines(sae_to_yaml(sae).rstrip())
    check_references(content, content.good, sae, data)
    print_lines(summarize([(content, True, content.good)], sae).text)
