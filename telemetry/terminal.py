"""Print to the terminal. All output of the commands passes through here, except the values of an export."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import TextIO

import click

from telemetry.logger import MessageFormatter, make_safe
from telemetry.redaction import redact_text, safe_line


def print_line(line: str, *, err: bool = False) -> None:
    """Print a line without credentials; control characters become spaces, and an ellipsis ends a very long line.

    Raises:
        OSError: the line cannot be written.
    """
    _write(safe_line(line), err=err)


def print_lines(text: str, *, err: bool = False) -> None:
    """Print a text of several lines like ``print_line``.

    Raises:
        OSError: the text cannot be written.
    """
    for line in redact_text(text).split("\n"):
        print_line(line, err=err)


def print_styled(text: str) -> None:
    """Print a text whose lines are printable except for escape sequences of our own.

    Raises:
        OSError: the text cannot be written.
    """
    _write(redact_text(text), err=False)


def print_data(text: str) -> None:
    """Print data for other programs unchanged, such as JSON, in which control characters are escaped.

    Raises:
        OSError: the text cannot be written.
    """
    _write(text, err=False)


def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug; for use as ``sys.excepthook``. The message may quote a file or a server."""
    with contextlib.suppress(OSError):
        print_lines("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), err=True)


def is_output_error(error: OSError) -> bool:
    """Return whether the error is that of printing, which has no file name, rather than of any other file."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return bool(frame.f_globals["__name__"] == click.utils.__name__)


def discard_unwritten() -> None:
    """Discard output that cannot be written, because the interpreter would try again at exit and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (ValueError, AttributeError):  # the stream is closed, or there is none
            continue


def protect_terminal() -> None:
    """Filter also what Python itself prints: warnings, tracebacks, and messages of loggers without a handler."""
    sys.excepthook = print_uncaught
    threading.excepthook = _print_uncaught_in_thread
    warnings.showwarning = _print_warning
    if logging.lastResort is not None:
        logging.lastResort.addFilter(make_safe)
        logging.lastResort.setFormatter(MessageFormatter())


def _print_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        print_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)


def _print_warning(  # noqa: PLR0917 - the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    with contextlib.suppress(OSError):
        if file is None:
            print_lines(text.rstrip("\n"), err=True)
        else:
            file.write(text)


def _write(text: str, *, err: bool) -> None:
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding), err=err)  # noqa: TID251 - the only place
