"""The error of everything that reads or draws data."""

__all__ = ["DataError"]


class DataError(ValueError):
    """The data cannot be used; the message names the file or the argument, its value and the cure."""
