"""Exceptions raised by telemetry, each also derived from the closest built-in exception; and helpers for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from telemetry.printable import printable, shorten
from telemetry.redaction import redact_text

MAX_MESSAGE_LENGTH = 1000
"""Maximum number of characters of a formatted message."""
MAX_SEARCHED = 20_000
"""Number of characters of a message that are searched for credentials; the rest is omitted."""


class TelemetryError(Exception):
    """Base class of all errors raised by telemetry; the command line prints the message and exits with code 2."""


class SettingError(TelemetryError, ValueError):
    """A setting or option is unknown, has the wrong type or is out of range."""


class UnitError(TelemetryError, ValueError):
    """A unit is unknown, or its dimension differs from that of the metric."""


class MetricNotDeclared(TelemetryError, LookupError):
    """A published metric was not declared, so its unit is unknown."""


class MetricNotFound(TelemetryError, LookupError):
    """The run has no metric with the requested name."""


class PackageNotInstalled(TelemetryError, ImportError):
    """The operation needs a package that is not installed."""


class SinkNotFound(TelemetryError, LookupError):
    """No installed package provides a sink with this name, or more than one does."""


class SinkNotInstalled(TelemetryError, ImportError):
    """A module that the sink requires is not installed."""


class PluginError(TelemetryError, TypeError):
    """A sink plugin cannot be imported or constructed, or does not fit the hook specifications."""


class RunNotFound(TelemetryError, LookupError):
    """The folder contains no journal."""


class RunExists(TelemetryError, FileExistsError):
    """A new run was requested in a folder that already contains a journal."""


class RunAlive(TelemetryError, RuntimeError):
    """The trainer of the run is alive, so no other process may write to its journal."""


class RunFolderError(TelemetryError, OSError):
    """The run folder cannot be created, read or written to."""


class JournalError(TelemetryError, ValueError):
    """The journal was written by a newer version, or a resume is incompatible with it."""


class LeaseHeld(TelemetryError, RuntimeError):
    """Another process is delivering this run to this sink."""


class SinkUnavailable(TelemetryError, ConnectionError):
    """Raised by a sink that cannot accept records at the moment.

    Delivery drops the instance, opens a new one after a delay, and sends the records again.
    """


class SinkRejected(TelemetryError, ValueError):
    """Raised by a sink for a record or a run that it will never accept.

    If ``sink_write`` raises it, the record concerned is set aside and reported, and delivery continues. If
    ``sink_open`` or ``sink_close`` does, delivery to this sink ends with the message.
    """


@contextmanager
def backend_errors(backend: str) -> Iterator[None]:
    """Translate a backend's exceptions; for use as a context manager, or as a decorator on a hook.

    Raises:
        SinkRejected: the backend's package cannot be imported, so retrying is useless.
        SinkUnavailable: any other exception was raised, by the backend or the file system.
    """
    try:
        yield
    except TelemetryError:
        raise
    except ImportError as error:
        msg = f"{backend} cannot be imported: {error}"
        raise SinkRejected(msg) from error
    except Exception as error:
        msg = f"{backend}: {format_error(error)}"
        raise SinkUnavailable(msg) from error


def raise_any(errors: Sequence[TelemetryError]) -> None:
    """Raise what has been collected, if anything.

    Raises:
        TelemetryError: a single error unchanged; otherwise one of the type of the first, with a line for each.
    """
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise type(errors[0])("\n".join(dict.fromkeys(map(str, errors))))


def format_error(error: BaseException) -> str:
    """Return the type and message of an error on one line; see ``error_text``."""
    try:
        name = printable(type(error).__name__)[:100]
    except BaseException:  # noqa: BLE001 - the class of a third party may have any metaclass
        name = "Exception"
    text = error_text(error)
    return f"{name}: {text}" if text else name


def error_text(error: BaseException) -> str:
    """Return the message of an error on one line, printable, without credentials, and up to 1,000 characters long.

    Invalid Unicode is escaped. If the message cannot be determined, the text is empty.
    """
    try:
        # Only then is the text truncated: the first part of a credential would not be recognized.
        text = redact_text(str(error)[:MAX_SEARCHED].encode(errors="backslashreplace").decode())
    except BaseException:  # noqa: BLE001 - a method of the exception of a third party, which may raise anything
        return ""
    return shorten(printable(" ".join(text.split())), MAX_MESSAGE_LENGTH)


def closest_match(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to ``name``; None if none reaches ``cutoff`` (see ``difflib``)."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a hint to append to a message, such as ``. Did you mean 'energy'?``; empty if no known name is close."""
    match = closest_match(name, known)
    return f". Did you mean {match!r}?" if match else ""
