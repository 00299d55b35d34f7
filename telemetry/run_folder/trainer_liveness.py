"""Check whether the trainer of a run is alive: by its process if that is visible, otherwise by its heartbeat.

An observer that cannot see the process considers it dead when the heartbeat has not changed for ``HEARTBEAT_TIMEOUT``
seconds on the observer's monotonic clock. The clocks of two machines are never compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from telemetry.run_folder.heartbeat import HEARTBEAT_TIMEOUT, read_heartbeat

_POLL_INTERVAL = 1.0
"""Poll interval of ``wait`` in seconds."""


class TrainerLivenessProbe:
    """Watch the trainer of a run from another process, possibly on another machine."""

    def __init__(
        self, folder: Path, *, timeout: float = HEARTBEAT_TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start watching.

        Args:
            folder: the run folder.
            timeout: seconds without a new heartbeat after which a trainer that is not visible is considered dead.
            clock: monotonic clock in seconds.
        """
        self._folder = folder
        self._timeout = timeout
        self._clock = clock
        self._last_beat: tuple[int, int] | None = None
        self._has_changed = False
        self._since = clock()

    def is_alive(self) -> bool | None:
        """Return whether the trainer is alive; None if that is not known yet, but may be at a later call."""
        heartbeat = read_heartbeat(self._folder)
        if heartbeat is not None:
            if heartbeat.beat < 0 or heartbeat.trainer.is_dead():
                return False
            if heartbeat.trainer.is_local():
                return True
            beat = (heartbeat.attempt, heartbeat.beat)
            if beat != self._last_beat:
                self._has_changed = self._last_beat is not None
                self._last_beat, self._since = beat, self._clock()
        if self._clock() - self._since >= self._timeout:
            return False
        return True if self._has_changed else None

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Watch for up to ``timeout`` seconds until it is known whether the trainer is alive; return whether it is."""
        while (answer := self.is_alive()) is None:
            sleep(_POLL_INTERVAL)
        return answer
