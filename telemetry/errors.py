"""The errors that telemetry raises, each also the builtin that it resembles, and how messages are worded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class TelemetryError(Exception):
    """Base of all errors raised by telemetry; the command line prints it and exits with 2."""


class SettingError(TelemetryError, ValueError):
    """A setting or option is unknown, of the wrong type or out of range."""


class UnitError(TelemetryError, ValueError):
    """A unit is unknown, or of another dimension than the metric."""


class MetricNotDeclared(TelemetryError, LookupError):
    """A metric was published that the run does not declare, so that nobody could tell its unit."""


class MetricNotFound(TelemetryError, LookupError):
    """A metric was asked for that the run does not have."""


class PackageNotInstalled(TelemetryError, ImportError):
    """What was asked for needs a package that is not installed."""


class SinkNotFound(TelemetryError, LookupError):
    """No installed package offers a sink of that name, or more than one does."""


class SinkNotInstalled(TelemetryError, ImportError):
    """The sink is known, but a module that it requires is not installed."""


class PluginError(TelemetryError, TypeError):
    """A sink plugin cannot be imported or constructed, or does not fit the hook specifications."""


class RunNotFound(TelemetryError, LookupError):
    """The folder holds no journal."""


class RunExists(TelemetryError, FileExistsError):
    """A new run was asked for in a folder that already holds a journal."""


class RunAlive(TelemetryError, RuntimeError):
    """The run's trainer still lives, so nobody else may write to its journal."""


class RunFolderError(TelemetryError, OSError):
    """The run folder cannot be created, read or written to."""


class JournalError(TelemetryError, ValueError):
    """The journal cannot be read by this version, or a resume does not fit it."""


class LeaseHeld(TelemetryError, RuntimeError):
    """Somebody else delivers this run to this sink now."""


class SinkUnavailable(TelemetryError, ConnectionError):
    """Raised by a sink: it cannot take records now; the same call will be made again later."""


class SinkRejected(TelemetryError, ValueError):
    """Raised by a sink: it will never take this.

    From ``sink_write`` the record concerned is set aside, reported, and delivery goes on; from ``sink_open``
    delivery to this sink ends with the message.
    """


@contextmanager
def backend_errors(backend: str) -> Iterator[None]:
    """Raise what passes through as an error of telemetry's. Around a block, or as a decorator of a hook.

    Raises:
        SinkRejected: the backend's package cannot be imported, which trying again does not change.
        SinkUnavailable: for anything else, of the backend or of the file system.
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


def format_error(error: BaseException) -> str:
    """Return the type and message of an error on one line, the message cut after 500 characters."""
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def closest_match(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to ``name``; None if none reaches ``cutoff`` (see ``difflib``)."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``. Did you mean 'energy'?``, to be appended to a message; an empty string if no known name is close."""
    match = closest_match(name, known)
    return f". Did you mean {match!r}?" if match else ""
