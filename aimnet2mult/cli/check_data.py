"""``aimnet2mult check-data``: check data files, without torch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aimnet2mult.cli.console import HELP, UserPath
from aimnet2mult.config.user_path import expand_user
from telemetry.terminal import print_data, print_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aimnet2mult.data.report import FileSummary, Report

FILE = UserPath()


@click.command("check-data", context_settings=HELP)
@click.argument("words", metavar="[FILES]... [KEY=VALUE]...", nargs=-1)
@click.option(
    "--config",
    "configs",
    type=FILE,
    multiple=True,
    help="YAML file of settings; repeatable. Its data sets are checked if no FILES are given.",
)
@click.option("--model", type=FILE, help="YAML definition of the model to train, which limits the elements.")
@click.option("--val", "val_files", type=FILE, multiple=True, help="File of validation data; repeatable.")
@click.option(
    "--min-distance",
    metavar="Å",
    type=click.FloatRange(min=0),
    help="Smallest distance between two atoms (default: 0.3).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def check_data(
    context: click.Context,
    *,
    words: tuple[str, ...],
    configs: tuple[Path, ...],
    model: Path | None,
    val_files: tuple[Path, ...],
    min_distance: float | None,
    as_json: bool,
) -> None:
    """Check data files as training does.

    Shows what the files contain, and all problems with file, group and row. Settings such as data.units.energy=Ha,
    data.keys.energy=E_wb97m or data.y=[energy,forces] are those of training; --config reads them from its settings. By
    default, all labels that the files contain are checked. The exit code is 1 if there are errors, otherwise 0.
    """
    if find_spec("h5py") is None:
        raise click.ClickException("the package h5py is not installed; run: pip install h5py")
    files = [expand_user(word) for word in words if not _is_setting(word)]
    settings = [word for word in words if _is_setting(word)]
    if min_distance is not None:
        settings.append(f"data.min_distance={min_distance}")
    report = _check(files, val_files, configs, settings, model)
    if as_json:
        print_data(json.dumps(report.to_dict(), indent=2))
    else:
        show_report(report, _caches(settings))
    context.exit(0 if report.ok else 1)


def _is_setting(word: str) -> bool:
    return word.startswith(("data.", "labels.")) and "=" in word


def _check(
    files: Sequence[Path],
    val_files: Sequence[Path],
    configs: Sequence[Path],
    settings: Sequence[str],
    model: Path | None,
) -> Report:
    from aimnet2mult.config.schema import load_data_settings
    from aimnet2mult.data.checks import check_files
    from aimnet2mult.data.file_format import FileFormat
    from aimnet2mult.models.definition import DEFAULT, max_element, read_definition
    from aimnet2mult.train.data_progress import progress

    config = load_data_settings(configs, settings)
    data = config.data
    if not files:
        files = [Path(path) for _, path in sorted(data.fidelity_datasets.items())]
        others = (*data.val_fidelity_datasets.values(), *data.test_fidelity_datasets.values())
        val_files = [*map(Path, others), *val_files]
    if not files:
        raise click.ClickException("no data file is given")
    asked = bool(configs) or any(word.startswith("data.y=") for word in settings)
    return check_files(
        files,
        val_files,
        labels=config.labels if asked else tuple(config.known_labels.values()),
        required=config.labels if asked and data.on_missing_label == "error" else (),
        file_format=FileFormat.from_config(config),
        min_distance=data.min_distance,
        max_element=max_element(read_definition(model or DEFAULT)),
        progress=progress,
    )


def _caches(settings: Sequence[str]) -> Path:
    """Return the folder of the caches of training runs with these settings."""
    from aimnet2mult.config.schema import load_data_settings
    from aimnet2mult.data.cache.data_cache import CACHE_FOLDER
    from telemetry import Settings

    given = load_data_settings((), settings).data.cache
    return Path(Settings().dir) / CACHE_FOLDER if given in ("auto", "off") else Path(given)


def show_report(report: Report, caches: Path | None = None) -> None:
    """Print what the files contain, and their problems; verify their caches in a folder."""
    for summary in report.files:
        print_line(summary.path)
        for name, text in (*_rows(summary), *_cache_rows(summary, caches)):
            print_line(f"  {name:<22}{text}")
    for kind, lines in (
        ("warning", report.warnings.lines()),
        ("error", report.error_lines),
    ):
        for line in lines:
            print_line(f"{kind}: {line}")
    if report.ok:
        print_line("no errors")
    elif report.bad_rows:
        print_line("correct bad structures, or leave them out of training with data.on_bad_structure=skip")


def _cache_rows(summary: FileSummary, caches: Path | None) -> list[tuple[str, str]]:
    if caches is None:
        return []
    from aimnet2mult.data.cache.entry import find_entries
    from aimnet2mult.data.cache.source import find_source
    from aimnet2mult.data.sizes import size_text
    from telemetry.run_folder.paths import shell_path

    source = find_source(Path(summary.path))
    rows = []
    for entry in find_entries(caches):
        if source in entry.manifest.sources:
            state = "intact" if entry.verify() else f"damaged; remove it: rm -r {shell_path(entry.folder)}"
            rows.append(("cache", f"{size_text(entry.size)} in {entry.folder}, {state}"))
    return rows


def _rows(summary: FileSummary) -> list[tuple[str, str]]:
    from aimnet2mult.data.compositions import join_symbols
    from aimnet2mult.data.places import counted

    rows = [
        ("structures", f"{summary.structures:,} in {counted(summary.groups, 'group')}"),
        ("bad structures", f"{summary.bad_structures:,}"),
        ("atoms", f"{summary.atoms:,}"),
        ("elements", join_symbols(summary.elements) or "none"),
        *((label, counted(count, "structure")) for label, count in summary.labels.items()),
    ]
    if not summary.labels:
        rows.append(("labels", "none"))
    if summary.other_arrays:
        rows.append(("other arrays", ", ".join(summary.other_arrays)))
    if summary.energies:
        rows.append(("energies", summary.energies.removeprefix("energies ")))
    if summary.force_rms is not None:
        rows.append(("RMS force component", f"{summary.force_rms:.4g} eV/Å"))
    return rows
