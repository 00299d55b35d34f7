"""Error handling and package checks of the commands."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from aimnet2mult.cli.interrupts import EXIT_INTERRUPTED
from aimnet2mult.config.user_path import expand_user
from aimnet2mult.errors import USER_ERRORS, OutOfMemory, RankLost, RunBusy
from telemetry.terminal import discard_unwritten, is_output_error, print_line
from telemetry.usage import click_error_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HELP = {"help_option_names": ["-h", "--help"]}


class UserPath(click.Path):
    """A path in which ``~`` is expanded even where the shell does not, as in ``--model=~/model.yaml``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Expand ``~``, then check the path."""
        return super().convert(expand_user(value), param, ctx)


class Count(click.ParamType):  # type: ignore[type-arg] # not generic in click 8.2
    """An integer of at least 1, with a message in plain words."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the integer."""
        number = int(value) if str(value).isdecimal() else 0
        if number < 1:
            self.fail(f"{value!r} is not an integer of at least 1", param, ctx)
        return number


EXISTING_FILE = UserPath(exists=True, dir_okay=False)
EXISTING_DATA = UserPath(exists=True)
"""A file, or a folder of npz files."""

TRAINING_PACKAGES = ("torch", "aimnet", "ignite", "h5py", "tqdm")
"""Import names of the packages that the extra ``train`` installs."""


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit.

    Errors that the user can fix give exit code 2 and a line on stderr for each; too little memory, the loss of
    another rank, and output that cannot be written, give 1, and an interrupt 130. Other errors keep their traceback.
    """
    try:
        code = _call(command, name, arguments)
    finally:
        discard_unwritten()
    sys.exit(code)


def _call(command: click.Command, name: str, arguments: Sequence[str] | None) -> int:
    try:
        result = command.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        return _report(click_error_text(error), 2)
    except USER_ERRORS as error:
        return _report(str(error), 2)
    except (OutOfMemory, RankLost, RunBusy) as error:
        return _report(str(error), os.EX_TEMPFAIL if isinstance(error, RunBusy) else 1)
    except OSError as error:
        if not is_output_error(error):
            raise
        # A reader such as `head` that has seen enough is no problem.
        return 1 if error.errno == errno.EPIPE else _report(f"cannot write the output: {error.strerror}", 1)


def _report(message: str, code: int) -> int:
    """Print an error message, whose lines are separate problems unless they are indented; return the exit code."""
    with contextlib.suppress(OSError):
        for line in message.split("\n"):
            print_line(line if line.startswith(" ") else f"error: {line}", err=True)
    return code


class TolerantStream:
    """A stream whose writes never fail, for libraries that print: a full log file must not end a training."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or do nothing if that fails."""
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or do nothing if that fails."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """Ignore errors of writing to stdout and stderr."""
    # A process can be started without them.
    streams: list[Any] = [stream and TolerantStream(stream) for stream in (sys.stdout, sys.stderr)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield


def require_training_packages() -> None:
    """Check that the packages of the extra ``train`` are installed.

    Raises:
        click.ClickException: Some are missing; the message names them and the extra.
    """
    from telemetry.plugins.optional_imports import is_installed

    missing = [name for name in TRAINING_PACKAGES if not is_installed(name)]
    if missing:
        raise click.ClickException(
            f"required packages are not installed: {', '.join(missing)}; run: pip install 'aimnet2mult[train]'"
        )
