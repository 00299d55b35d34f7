"""The commands that look at runs: ``show``, ``export`` and ``list``. None of them writes into a run folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from telemetry.catalogue import Catalogue
from telemetry.console import exits_with_message, say, say_skipped
from telemetry.errors import RunFolderError, SettingError
from telemetry.export import Export, Format
from telemetry.figure import write_png
from telemetry.journal import now_ms
from telemetry.plot import main_plots, plots, run_labels
from telemetry.run import Run, RunReader
from telemetry.screen import Screen
from telemetry.state import OPEN

POLL = 2.0
"""Seconds between two looks at a run that is followed."""
WIDTH = 80
"""Characters of a line where there is no terminal to ask."""
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"

FOLDER = click.Path(path_type=Path)


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
        _refuse_inside(png, runs)
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


@click.command()
@click.argument("run", type=FOLDER)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="Comma-separated values, or one JSON object a line.",
)
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Write to a file and not to standard output.")
@click.option("--all", "superseded", is_flag=True, help="Also what a later attempt has superseded; a column tells.")
@exits_with_message
def export(run: Path, form: Format, output: Path | None, superseded: bool) -> None:
    """Write the values of RUN (a run folder), one a line, in the order of the journal.

    The columns are run, seq, stream, step, time (ms since 1970), name, value, unit.
    """
    rows = Export(run, superseded=superseded)
    if output is not None:
        _refuse_inside(output, [run])
    with _writer(output) as write:
        for line in rows.lines(form):
            write(line)
    say_skipped(rows.skipped, err=True)


@contextlib.contextmanager
def _writer(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Give what writes a line to a file, or to standard output: in UTF-8, whatever the locale."""
    if path is None:
        if sys.stdout.isatty():
            yield _say_line
        else:
            yield lambda line: sys.stdout.buffer.write(line.encode())
            sys.stdout.flush()
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file.write
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror or error})"
        raise RunFolderError(msg) from error


def _say_line(line: str) -> None:
    say(line.rstrip("\n"))


def _refuse_inside(path: Path, runs: Sequence[Path]) -> None:
    for run in runs:
        if path.resolve().is_relative_to(run.resolve()):
            msg = f"{path} lies in the run folder {run}, which is only looked at; name another place"
            raise SettingError(msg)


@click.command("list")
@click.argument("folder", default="runs", metavar="[DIR]", type=FOLDER)
@click.option(
    "--best", "metric", metavar="METRIC", help="Show the lowest value of this metric, by its full name; else val/loss."
)
@click.option(
    "--quick", is_flag=True, help="Leave that value out: only the head and the tail of each journal are read."
)
@exits_with_message
def list_runs(folder: Path, metric: str | None, quick: bool) -> None:
    """List the runs in DIR (the folder of the run folders; runs by default), the latest first."""
    if quick and metric is not None:
        msg = f"--quick leaves out what --best {metric} asks for; give one of them"
        raise SettingError(msg)
    for line in Catalogue(folder, metric, quick=quick).lines(now_ms()):
        say(line)
