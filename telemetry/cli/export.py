"""``telemetry export``: write the values of a run as CSV or JSON lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from telemetry.cli.console import PATH, RUN, exits_with_message, print_line, print_skipped, require_outside
from telemetry.errors import RunFolderError
from telemetry.reading.export import Export, Format
from telemetry.run_folder.regular_file import open_output


@click.command()
@click.argument("run", type=RUN)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="Comma-separated values, or one JSON object per line.",
)
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write to a file instead of standard output.")
@click.option(
    "--all", "superseded", is_flag=True, help="Include values superseded by a later attempt, marked in a column."
)
@exits_with_message
def export(run: Path, form: Format, output: Path | None, superseded: bool) -> None:
    """Write the values of a run as CSV or JSON lines.

    RUN is a run folder, or the ID or name of a run in ./runs. There is one value per line, in journal order. The
    columns are run, seq, stream, step, time (milliseconds since 1970), name, value, unit. Only numbers are exported;
    `telemetry show` lists the files of images, tables, texts and artifacts.
    """
    rows = Export(run, superseded=superseded)
    if output is not None:
        require_outside(output, [run])
    with _writer(output) as write:
        for line in rows.lines(form):
            write(line)
    print_skipped(rows.skipped, err=True)


@contextlib.contextmanager
def _writer(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes a line to a file or to standard output, in UTF-8 regardless of the locale."""
    if path is None:
        if sys.stdout.isatty():
            yield lambda line: print_line(line.rstrip("\n"))
        else:
            yield lambda line: sys.stdout.buffer.write(line.encode())
            sys.stdout.flush()
        return
    try:
        with open(path, "w", encoding="utf-8", newline="", opener=open_output) as file:
            yield file.write
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror or error})"
        raise RunFolderError(msg) from error
