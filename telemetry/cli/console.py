"""Output, error handling and checks shared by the commands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import msgspec

from telemetry.delivery.receipt import Receipt
from telemetry.display.printable import printable
from telemetry.errors import SettingError, TelemetryError
from telemetry.journal.reader import Skipped

P = ParamSpec("P")
R = TypeVar("R")

EXIT_USAGE = 2
"""Exit code for any TelemetryError; click uses the same code for usage errors."""
PATH = click.Path(path_type=Path)


def exits_with_message(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that it reports a TelemetryError as one line on stderr and exits with code 2."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TelemetryError as error:
            print_line(f"error: {error}", err=True)
            sys.exit(EXIT_USAGE)

    return wrapper


def print_line(line: str, *, err: bool = False) -> None:
    """Print a line that may contain text from a run folder; control characters are replaced with spaces."""
    click.echo(printable(line), err=err)


def print_skipped(skipped: Skipped, *, run: str = "", err: bool = False) -> None:
    """Print the counts of skipped journal records, if any; ``run`` names the run if there are several."""
    counts = {reason: count for reason, count in msgspec.structs.asdict(skipped).items() if count}
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        print_line(f"skipped in the journal{run and f' of {run}'}: {listed}", err=err)


def print_sinks(receipt: Receipt, *names: str) -> None:
    """Print the state of the named sinks (by default, of all) and the command that delivers the remaining records."""
    known = {sink.name: sink.lines() for sink in receipt.sinks}
    for name in names or known:
        for line in known.get(name, [f"{name}: delivery progress could not be saved"]):
            print_line(line)
    for line in (*receipt.misnamed_files(), *receipt.sync_command(*names)):
        print_line(line)


def require_outside(path: Path, runs: Sequence[Path]) -> None:
    """Check that the output file ``path`` is outside all of the run folders.

    Raises:
        SettingError: it is inside one of them.
    """
    for run in runs:
        if path.resolve().is_relative_to(run.resolve()):
            msg = f"{path} is inside the run folder {run}, which must not be modified; choose another location"
            raise SettingError(msg)
