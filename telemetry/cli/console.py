"""Output, error handling and checks shared by the commands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import msgspec

from telemetry.delivery.receipt import Receipt
from telemetry.errors import SettingError, TelemetryError
from telemetry.journal.reader import Skipped
from telemetry.reading.find_run import find_run
from telemetry.terminal import discard_unwritten, is_output_error, print_line, protect_terminal
from telemetry.usage import CommandGroup, click_error_text

__all__ = [
    "PATH",
    "RUN",
    "Commands",
    "exits_with_message",
    "print_line",
    "print_sinks",
    "print_skipped",
    "require_outside",
]

P = ParamSpec("P")
R = TypeVar("R")

EXIT_USAGE = 2
"""Exit code for any TelemetryError; click uses the same code for usage errors."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""
EXIT_UNWRITTEN = 1
"""Exit code if the output cannot be written."""
PATH = click.Path(path_type=Path)


class RunFolder(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.2
    """A run, given by its folder, its ID or its name (see ``find_run``)."""

    name = "run"

    def convert(self, value: Any, *_: object) -> Path:
        """Return the run folder."""
        try:
            return find_run(value)
        except TelemetryError as error:
            raise UserError(str(error)) from error


RUN = RunFolder()


class UserError(click.ClickException):
    """A TelemetryError raised while arguments are converted."""

    exit_code = EXIT_USAGE


class Commands(CommandGroup):
    """A group of commands whose errors are one printable line each."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run the command and, in standalone mode, exit; warnings and tracebacks are filtered like its own output."""
        protect_terminal()
        options: dict[str, Any] = {**kwargs, "standalone_mode": False}
        if not standalone_mode:
            return super().main(*args, **options)
        try:
            result = super().main(*args, **options)
        except click.ClickException as error:
            print_line(f"error: {click_error_text(error)}", err=True)
            sys.exit(EXIT_USAGE)
        except click.Abort:
            print_line("interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except OSError as error:
            if not is_output_error(error):
                raise
            print_line(f"error: cannot write the output: {error.strerror}", err=True)
            discard_unwritten()
            sys.exit(EXIT_UNWRITTEN)
        sys.exit(result if isinstance(result, int) else 0)


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


def print_skipped(skipped: Skipped, *, run: str = "", err: bool = False) -> None:
    """Print the counts of skipped journal records, if any; ``run`` names the run if there are several."""
    counts = {reason: count for reason, count in msgspec.structs.asdict(skipped).items() if count}
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        print_line(f"skipped in the journal{run and f' of {run}'}: {listed}", err=err)


def print_sinks(receipt: Receipt, *names: str, command: bool = True) -> None:
    """Print the state of the named sinks (by default, of all), and the ``command`` that delivers the rest."""
    known = {sink.name: sink.lines() for sink in receipt.sinks}
    for name in names or known:
        for line in known.get(name, [f"{name}: delivery progress could not be saved"]):
            print_line(line)
    for line in (*receipt.misnamed_files(), *(receipt.sync_command(*names) if command else ())):
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
