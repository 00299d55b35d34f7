"""Which iterations are due."""

from __future__ import annotations

from collections.abc import Iterable

from telemetry.errors import SettingError

EVENTS = ("train_epoch", "val")
"""Streams that something that happens drives, not the number of the iteration: always due."""


class Cadence:
    """Every ``every``-th iteration of the periodic streams, and every point of the event-driven ones.

    Raises:
        SettingError: ``every`` is below 1.
    """

    __slots__ = ("events", "every")

    def __init__(self, every: int, events: Iterable[str] = EVENTS) -> None:
        if every < 1:
            msg = f"telemetry.every is {every}; it is a number of iterations, 1 or more"
            raise SettingError(msg)
        self.every = every
        self.events = frozenset(events)

    def due(self, stream: str, step: int) -> bool:
        """Say whether ``stream`` is due at iteration ``step``. Pure: the same on every rank and after a resume."""
        return not step % self.every or stream in self.events
