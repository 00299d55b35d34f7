"""Which iterations are due."""

from __future__ import annotations

from collections.abc import Iterable

from telemetry.errors import SettingError

EVENTS = ("train_epoch", "val")
"""Streams driven by events instead of the iteration number: always due."""
ALL = "*"
"""Stands for all streams among those driven by events."""


class _AllStreams(frozenset[str]):
    def __contains__(self, _: object) -> bool:
        return True


class Cadence:
    """Decide which points are recorded: every n-th iteration of periodic streams, and all points of event streams.

    Args:
        every: interval between points of the periodic streams, in iterations.
        events: the event-driven streams; ``*`` for all, if the caller publishes only what is to be recorded.

    Raises:
        SettingError: ``every`` is less than 1.
    """

    __slots__ = ("events", "every")

    def __init__(self, every: int, events: Iterable[str] = EVENTS) -> None:
        if every < 1:
            msg = f"telemetry.every is {every}; it must be a number of iterations, at least 1"
            raise SettingError(msg)
        self.every = every
        self.events = frozenset(events)
        if ALL in self.events:
            self.events = _AllStreams(self.events)

    def due(self, stream: str, step: int) -> bool:
        """Return whether ``stream`` is due at iteration ``step``.

        The answer is the same on every rank and after a resume.
        """
        return not step % self.every or stream in self.events
