"""Limit the repetition of messages."""

__all__ = ["Repeats"]


class Repeats:
    """The occurrences of a message in a row, of which the first, second, fourth, eighth … are reported."""

    def __init__(self) -> None:
        self.count = 0
        """Number of occurrences of the latest message in a row."""
        self._message: str | None = None

    def add(self, message: str) -> bool:
        """Count an occurrence, and return whether to report it."""
        self.count = self.count + 1 if message == self._message else 1
        self._message = message
        return self.count & (self.count - 1) == 0

    def end(self) -> None:
        """Report the next occurrence again, because the problem is over."""
        self._message = None
