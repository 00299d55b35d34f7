"""The errors of this package. Each message says what is wrong, with the value and the location, and what to do."""

__all__ = ["CheckpointError", "ConfigError", "DataError", "ModelError", "RankLost"]


class ConfigError(ValueError):
    """The configuration is unusable; the message names the key, its value and what is valid."""


class DataError(ValueError):
    """The data are unusable; the message names the file or the argument, its value and the remedy."""


class ModelError(ValueError):
    """The model cannot be built; the message names its definition, what is wrong there and the remedy."""


class CheckpointError(ValueError):
    """The checkpoint does not fit the model or the data it is loaded for."""


class RankLost(RuntimeError):
    """The job failed because another rank failed, died or never joined.

    ``reported`` is whether rank 0 knows the reason and reports it to the user.
    """

    def __init__(self, message: str, *, reported: bool = False) -> None:
        super().__init__(message)
        self.reported = reported
