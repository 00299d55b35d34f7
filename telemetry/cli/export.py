"""``telemetry export``: write the values of a run as CSV or JSON lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from telemetry.cli.console import FOLDER, exits_with_message, refuse_inside, say, say_skipped
from telemetry.errors import RunFolderError
from telemetry.reading.export import Export, Format


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
        refuse_inside(output, [run])
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
