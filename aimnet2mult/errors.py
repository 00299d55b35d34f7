"""Exceptions of this package. Messages state the problem with its value and location, and what to do."""

__all__ = ["CheckpointError", "ConfigError", "DataError", "ModelError", "RankLost"]


class ConfigError(ValueError):
    """A setting is invalid; the message names the key, its value and the valid values."""


class DataError(ValueError):
    """A data file or an argument is invalid; the message names it, its value and the remedy."""


class ModelError(ValueError):
    """A model cannot be built from its definition; the message names the part that is invalid and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint does not fit the model or the data."""


class RankLost(RuntimeError):
    """The job failed because another rank failed, died or never joined.

    Attributes:
        reported: Whether rank 0 knows the reason and reports it to the user.
    """

    def __init__(self, message: str, *, reported: bool = False) -> None:
        super().__init__(message)
        self.reported = reported
