"""Notice streams that are published only at iterations that are not due, so that none of their points is recorded."""

from __future__ import annotations

import math
from collections.abc import Container

import msgspec


class _Missed(msgspec.Struct):
    count: int
    first: int
    last: int
    divisor: int


class MissedPoints:
    """Count the points that were not recorded because their iteration was not due, by stream."""

    def __init__(self, every: int) -> None:
        """Start without points, for streams that are due every ``every`` iterations."""
        self._every = every
        self._missed: dict[str, _Missed] = {}

    def add(self, stream: str, step: int) -> None:
        """Count a point."""
        missed = self._missed.get(stream)
        if missed is None:
            self._missed[stream] = _Missed(1, step, step, step)
        else:
            missed.count += 1
            missed.last = step
            missed.divisor = math.gcd(missed.divisor, step)

    def warnings(self, recorded: Container[str]) -> list[str]:
        """Return a warning for each stream that has missed points and is not in ``recorded``."""
        return [
            f"0 of {missed.count} points of {stream} were due: they were published at iterations {missed.first} to "
            f"{missed.last}, but {stream} is recorded at multiples of {self._every}; set telemetry.every "
            f"(Settings(every=…)) to {max(1, missed.divisor)}"
            for stream, missed in self._missed.items()
            if stream not in recorded
        ]
