"""What the commands print, and how they end."""

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

USAGE = 2
"""Exit code of a usage error; click's own is the same."""
FOLDER = click.Path(path_type=Path)


def exits_with_message(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command print telemetry's errors as one line and exit with 2."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TelemetryError as error:
            say(f"error: {error}", err=True)
            sys.exit(USAGE)

    return wrapper


def say(line: str, *, err: bool = False) -> None:
    """Print a line with what files say."""
    click.echo(printable(line), err=err)


def say_skipped(skipped: Skipped, *, run: str = "", err: bool = False) -> None:
    """Print what could not be read of a journal, if anything; ``run`` names its run where there are several."""
    counts = {what: count for what, count in msgspec.structs.asdict(skipped).items() if count}
    if counts:
        listed = ", ".join(f"{count} {what}" for what, count in counts.items())
        say(f"passed over in the journal{run and f' of {run}'}: {listed}", err=err)


def show_sinks(summary: Receipt, *names: str) -> None:
    """Print how the sinks of these names stand, or all of them, and what delivers the rest."""
    known = {sink.name: sink.lines() for sink in summary.sinks}
    for name in names or known:
        for line in known.get(name, [f"{name}: how far it has got could not be kept"]):
            say(line)
    for line in summary.sync_command(*names):
        say(line)


def refuse_inside(path: Path, runs: Sequence[Path]) -> None:
    """Refuse to write a file into a run folder; raises SettingError."""
    for run in runs:
        if path.resolve().is_relative_to(run.resolve()):
            msg = f"{path} lies in the run folder {run}, which is only looked at; name another place"
            raise SettingError(msg)
