"""Exceptions of this package. Messages state the problem with its value and location, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from telemetry.errors import TelemetryError

__all__ = [
    "USER_ERRORS",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ModelError",
    "OutOfMemory",
    "Problems",
    "RankLost",
    "RunBusy",
]


class ConfigError(ValueError):
    """A setting is invalid; the message names the key, its value and the valid values."""


class DataError(ValueError):
    """A data file or an argument is invalid; the message names it, its value and the remedy."""


class ModelError(ValueError):
    """A model cannot be built from its definition; the message names the part that is invalid and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint does not fit the model or the data."""


class OutOfMemory(MemoryError):
    """The memory of the device does not suffice for a batch; the message names the settings that need less."""


class RankLost(RuntimeError):
    """The job failed because another rank failed, died or never joined.

    Attributes:
        reported: Whether rank 0 knows the reason and reports it to the user.
    """

    def __init__(self, message: str, *, reported: bool = False) -> None:
        super().__init__(message)
        self.reported = reported


class RunBusy(RuntimeError):
    """The trainer of the run to resume is still alive; a later attempt may succeed."""


USER_ERRORS = (ConfigError, DataError, ModelError, CheckpointError, TelemetryError)
"""Errors that the user can fix; their message is shown without a traceback."""


class Problems:
    """Errors that the user can fix, collected so that all of them are reported at once."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def add(self, message: str) -> None:
        """Collect a problem of the configuration."""
        self._errors.append(ConfigError(message))

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect an error of the user raised in the block, instead of propagating it."""
        try:
            yield
        except USER_ERRORS as error:
            self._errors.append(error)

    def raise_any(self) -> None:
        """Raise what has been collected, if anything.

        Raises:
            ConfigError: There are several problems; the message has a line for each. A single one is raised unchanged.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ConfigError("\n".join(dict.fromkeys(map(str, self._errors))))
