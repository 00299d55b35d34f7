"""``telemetry report``: write the curves of runs into one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from telemetry.cli.console import PATH, exits_with_message, print_line, require_outside
from telemetry.journal.reader import read_header
from telemetry.plugins.optional_imports import optional_import
from telemetry.reading.find_run import find_run, is_folder_of_runs, run_folders


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="RUN|FOLDER...", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="FILE", required=True, help="The HTML file to write.")
@exits_with_message
def report(paths: tuple[Path, ...], output: Path) -> None:
    """Write the curves, images, tables and texts of runs into one HTML file for a browser.

    RUN is a run folder, or the ID or name of a run in ./runs. FOLDER contains run folders, all of which are shown. The
    file shows what `telemetry view` shows, of images, tables and texts the newest of each name, and needs neither a
    server nor the internet.
    """
    runs = [run for path in paths for run in (run_folders(path) if is_folder_of_runs(path) else [find_run(path)])]
    require_outside(output, runs)
    for run in runs:
        read_header(run)  # raises if the folder contains no readable run
    with optional_import("`telemetry report`", "'aimnet2mult[view]'"):
        from telemetry.view.quiet import silence_bokeh
        from telemetry.view.report import write_report
    silence_bokeh()
    write_report(output, runs)
    print_line(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
