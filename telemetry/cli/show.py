"""``telemetry show``: draw the curves of runs in the terminal or as PNG."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from telemetry.cli.console import FOLDER, exits_with_message, refuse_inside, say, say_skipped
from telemetry.display.dashboard import Screen
from telemetry.display.plot_model import main_plots, plots, run_labels
from telemetry.display.png import write_png
from telemetry.errors import SettingError
from telemetry.reading.run import Run, RunReader
from telemetry.run_folder.run_status import OPEN

POLL = 2.0
"""Seconds between two looks at a run that is followed."""
WIDTH = 80
"""Characters of a line where there is no terminal to ask."""
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=FOLDER)
@click.option(
    "--metric",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="A full name, a name within its stream, or a pattern, as in val/loss, loss or 'val/*'; repeatable.",
)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N iterations of each run.")
@click.option("--follow", is_flag=True, help="Draw again as points come, until the runs have ended.")
@click.option("--png", type=FOLDER, metavar="FILE", help="Draw into a PNG file.")
@click.option("--width", type=click.IntRange(min=20), metavar="N", help="Characters of a line; the terminal's, or 80.")
@click.option("--height", type=click.IntRange(min=5), default=14, show_default=True, help="Lines of a chart.")
@exits_with_message
def show(
    *,
    runs: tuple[Path, ...],
    patterns: tuple[str, ...],
    last: int | None,
    follow: bool,
    png: Path | None,
    width: int | None,
    height: int,
) -> None:
    """Show the curves of RUN (a run folder), or of several on the same charts.

    What the streams of a run call by one name, in one unit, shares a chart. Without --metric, charts of parts of the
    data are left out.
    """
    readers = [RunReader(run) for run in runs]
    if png is not None:
        if follow:
            msg = "--png draws once; leave out --follow"
            raise SettingError(msg)
        refuse_inside(png, runs)
        _draw_png(png, _read_all(readers), patterns, last)
        return
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    size = shutil.get_terminal_size((WIDTH, 24))
    screen = Screen(
        width=width or (size.columns if sys.stdout.isatty() else WIDTH),
        height=height,
        rows=size.lines if terminal and follow else None,
        colours=terminal and "NO_COLOR" not in os.environ,
        patterns=patterns,
        last=last,
    )
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            follow_runs(readers, lambda: _print_screen(screen, [r.run() for r in readers], again=terminal), time.sleep)
        return
    read = _read_all(readers)
    _print_screen(screen, read)
    _say_skipped(read)


def _read_all(readers: Sequence[RunReader]) -> list[Run]:
    for reader in readers:
        reader.read(live=False)
    return [reader.run() for reader in readers]


def _say_skipped(runs: Sequence[Run]) -> None:
    for run, label in zip(runs, run_labels(runs), strict=True):
        say_skipped(run.skipped, run=label if len(runs) > 1 else "", err=True)


def follow_runs(readers: Sequence[RunReader], draw: Callable[[], None], wait: Callable[[float], None]) -> None:
    """Draw when there is something new, until no run can grow any more."""
    drawn = False
    while True:
        new = [reader.read(live=True) for reader in readers]
        going_on = any(reader.status in OPEN for reader in readers)
        if not going_on:
            new += [reader.read(live=False) for reader in readers]
        if any(new) or not (drawn and going_on):
            draw()
            drawn = True
        if not going_on:
            return
        wait(POLL)


def _print_screen(screen: Screen, runs: Sequence[Run], *, again: bool = False) -> None:
    lines = screen.lines(runs)
    text = _encodable("\n".join(line + (CLEAR_LINE if again else "") for line in lines))
    click.echo(f"{HOME}{text}\n{CLEAR_REST}" if again else text)


def _encodable(text: str) -> str:
    """Give a text that a terminal without Unicode takes too."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _draw_png(path: Path, runs: Sequence[Run], patterns: Sequence[str], last: int | None) -> None:
    found = plots(runs, patterns, last)
    if not found:
        msg = f"{', '.join(run_labels(runs))}: no points to draw yet"
        raise SettingError(msg)
    write_png(path, found if patterns else main_plots(found), ", ".join(run_labels(runs)))
    say(f"wrote {path}")
    _say_skipped(runs)
