"""Whether a run's trainer lives: told by its process where that can be seen, else by watching its beat.

Clocks of two machines are never compared. The trainer rewrites ``alive.json`` with a growing beat; who cannot see its
process holds it for dead when the beat has stood still for ``HEARTBEAT_TIMEOUT`` seconds of his own monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from telemetry.run_folder.atomic_write import read_json, write_json
from telemetry.run_folder.process_identity import ProcessIdentity

HEARTBEAT_INTERVAL = 10.0
"""Seconds between two beats."""
HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a beat after which an unseen process is held for dead."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus of an attempt was given and what became of it; in records."""

    offered: int = 0
    journaled: int = 0
    lost: int = 0
    step: int = 0


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``alive.json``. ``beat`` is -1 in the last one, written when the run is closed."""

    trainer: ProcessIdentity
    attempt: int
    beat: int
    counts: Counts


_decoder = msgspec.json.Decoder(Heartbeat)


def heartbeat_path(folder: Path) -> Path:
    """Give the path of a run's ``alive.json``."""
    return folder / "alive.json"


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """Give what the trainer wrote last, None if there is nothing to be read."""
    return read_json(heartbeat_path(folder), _decoder)


def write_heartbeat(folder: Path, alive: Heartbeat) -> None:
    """Write a beat; raises OSError."""
    write_json(heartbeat_path(folder), alive)


class TrainerLivenessProbe:
    """Watch the trainer of a run folder from another process.

    Args:
        folder: the run folder.
        still: after how many seconds without a beat an unseen trainer counts as dead.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, folder: Path, *, still: float = HEARTBEAT_TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._still = still
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._moved = False
        self._since = clock()

    def is_alive(self) -> bool | None:
        """Say whether the trainer lives; None as long as that cannot be told: ask again later."""
        alive = read_heartbeat(self._folder)
        if alive is not None:
            if alive.beat < 0 or alive.trainer.is_dead():
                return False
            if alive.trainer.is_local():
                return True
            seen = (alive.attempt, alive.beat)
            if seen != self._seen:
                self._moved = self._seen is not None
                self._seen, self._since = seen, self._clock()
        if self._clock() - self._since >= self._still:
            return False
        return True if self._moved else None

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Watch until it can be told whether the trainer lives (at most ``still`` seconds); say so."""
        while (answer := self.is_alive()) is None:
            sleep(1.0)
        return answer
