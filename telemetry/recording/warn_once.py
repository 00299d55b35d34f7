"""Log warnings without repeating them."""

from __future__ import annotations

from telemetry.logger import log


class WarnOnce:
    """Log one warning per cause, until the cause is cleared."""

    def __init__(self) -> None:
        self._causes: set[str] = set()

    def __call__(self, cause: str, message: str) -> None:
        """Log ``message``, unless a warning with this cause has already been logged."""
        if cause not in self._causes:
            self._causes.add(cause)
            log.warning("%s", message)

    def clear(self, cause: str) -> bool:
        """Allow the cause to be logged again; return whether it had been logged."""
        had_warned = cause in self._causes
        self._causes.discard(cause)
        return had_warned
