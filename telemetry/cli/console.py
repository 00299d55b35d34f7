"""Output, error handling and checks shared by the commands."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import msgspec

from telemetry.delivery.receipt import Receipt
from telemetry.errors import SettingError, TelemetryError
from telemetry.journal.reader import Skipped
from telemetry.redaction import safe_line
from telemetry.terminal import print_line, protect_terminal

__all__ = ["PATH", "Commands", "exits_with_message", "print_line", "print_sinks", "print_skipped", "require_outside"]

P = ParamSpec("P")
R = TypeVar("R")

EXIT_USAGE = 2
"""Exit code for any TelemetryError; click uses the same code for usage errors."""
PATH = click.Path(path_type=Path)


class Commands(click.Group):
    """A group of commands whose usage errors quote only printable characters."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; warnings and tracebacks are filtered like its own output."""
        protect_terminal()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options of the group."""
        with _printable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Parse the arguments of the command, and call it."""
        with _printable_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        # The attribute is final for type checkers, but not used before the error is shown.
        error.message = safe_line(error.message)  # type: ignore[misc]
        raise


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
