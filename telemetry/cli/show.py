"""``telemetry show``: draw the curves of runs in the terminal or into a PNG file."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from telemetry.cli.console import PATH, exits_with_message, print_line, print_skipped, require_outside
from telemetry.display.dashboard import Dashboard
from telemetry.display.plot_layout import main_plots, plots, run_labels
from telemetry.display.png import write_png
from telemetry.errors import SettingError
from telemetry.reading.find_run import find_run, is_folder_of_runs
from telemetry.reading.run import Run, RunReader
from telemetry.reading.run_list import RunTable
from telemetry.records import now_ms
from telemetry.run_folder.paths import shell_path
from telemetry.run_folder.run_status import OPEN
from telemetry.terminal import print_styled

POLL_INTERVAL = 2.0
"""Interval between reads of a followed run, in seconds."""
DEFAULT_WIDTH = 80
"""Characters per line if the output is not a terminal."""
CURSOR_HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=PATH)
@click.option(
    "--metric",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="A full name, a name without its stream, or a pattern, such as val/loss, loss or 'val/*'; repeatable.",
)
@click.option("--all", "all_charts", is_flag=True, help="Show all charts and streams.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Show only the last N iterations of each run.")
@click.option("--follow", is_flag=True, help="Redraw as points arrive, until all runs have ended.")
@click.option("--png", type=PATH, metavar="FILE", help="Draw into a PNG file instead of the terminal.")
@click.option(
    "--width",
    type=click.IntRange(min=20),
    metavar="N",
    help="Characters per line; by default the width of the terminal, or 80.",
)
@click.option(
    "--height",
    metavar="N",
    type=click.IntRange(min=5),
    help="Lines per chart; by default as many as fit into the terminal, or 14.",
)
@exits_with_message
def show(
    *,
    runs: tuple[Path, ...],
    patterns: tuple[str, ...],
    all_charts: bool,
    last: int | None,
    follow: bool,
    png: Path | None,
    width: int | None,
    height: int | None,
) -> None:
    """Plot the curves of runs.

    RUN is a run folder, or the ID or name of a run in ./runs; several runs share the same charts. Metrics with the same
    name and unit share a chart across streams. Without --metric and --all, only the main charts are shown, and of
    several runs only the validation. Of images, tables, texts, histograms and artifacts, the newest of each name is
    listed with its file in the run folder. The runs in a FOLDER of runs are listed.
    """
    if len(runs) == 1 and is_folder_of_runs(runs[0]):
        _list(runs[0])
        return
    folders = [find_run(run) for run in runs]
    readers = [RunReader(folder) for folder in folders]
    if png is not None:
        if follow:
            msg = "--png cannot be combined with --follow: it draws only once"
            raise SettingError(msg)
        require_outside(png, folders)
        _draw_png(png, _read_all(readers), patterns, last, all_charts=all_charts)
        return
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    size = shutil.get_terminal_size((DEFAULT_WIDTH, 24))
    dashboard = Dashboard(
        width=width or (size.columns if sys.stdout.isatty() else DEFAULT_WIDTH),
        height=height,
        rows=size.lines - 1 if terminal else None,  # the last line is that of the cursor
        follow=follow and terminal,
        colors=terminal and "NO_COLOR" not in os.environ,
        patterns=patterns,
        last=last,
        all_charts=all_charts,
    )
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            follow_runs(readers, lambda: _draw(dashboard, [r.run() for r in readers], in_place=terminal), time.sleep)
        return
    loaded = _read_all(readers)
    _draw(dashboard, loaded)
    _print_skipped(loaded)


def _list(folder: Path) -> None:
    """List the runs in a folder like ``telemetry list``, and print how to show the newest."""
    table = RunTable(folder)
    for line in table.lines(now_ms()):
        print_line(line)
    if table.newest is not None:
        print_line(f"show a run: telemetry show {shell_path(table.newest)}")


def _read_all(readers: Sequence[RunReader]) -> list[Run]:
    for reader in readers:
        reader.read(live=False)
    return [reader.run() for reader in readers]


def _print_skipped(runs: Sequence[Run]) -> None:
    for run, label in zip(runs, run_labels(runs), strict=True):
        print_skipped(run.skipped, run=label if len(runs) > 1 else "", err=True)


def follow_runs(readers: Sequence[RunReader], draw: Callable[[], None], wait: Callable[[float], None]) -> None:
    """Call ``draw`` whenever there are new records, until all runs have ended; always at least once.

    Args:
        readers: the runs.
        draw: draws all runs.
        wait: called between reads with the number of seconds to sleep.
    """
    drawn = False
    while True:
        new = [reader.read(live=True) for reader in readers]
        any_open = any(reader.status in OPEN for reader in readers)
        if not any_open:
            # No more records will come, so also read what a live read leaves for later.
            new += [reader.read(live=False) for reader in readers]
        if any(new) or not (drawn and any_open):
            draw()
            drawn = True
        if not any_open:
            return
        wait(POLL_INTERVAL)


def _draw(dashboard: Dashboard, runs: Sequence[Run], *, in_place: bool = False) -> None:
    lines = dashboard.lines(runs)
    text = "\n".join(line + (CLEAR_LINE if in_place else "") for line in lines)
    print_styled(f"{CURSOR_HOME}{text}\n{CLEAR_BELOW}" if in_place else text)


def _draw_png(path: Path, runs: Sequence[Run], patterns: Sequence[str], last: int | None, *, all_charts: bool) -> None:
    found = plots(runs, patterns, last)
    if not found:
        msg = f"{', '.join(run_labels(runs))}: no points to draw yet"
        raise SettingError(msg)
    write_png(path, found if patterns or all_charts else main_plots(found, len(runs)), ", ".join(run_labels(runs)))
    print_line(f"wrote {path}")
    _print_skipped(runs)
