"""Waiting for the trainer of a run to end, for example on a node that SLURM has lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aimnet2mult.errors import RunBusy
from telemetry.recording.run_plan import run_alive
from telemetry.run_folder.heartbeat import HEARTBEAT_TIMEOUT, read_heartbeat
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

__all__ = ["WAIT_LIMIT", "TrainerWait"]

WAIT_LIMIT = 600.0
"""Maximum wait, in seconds, for the trainer of a run to end."""
_POLL_INTERVAL = 1.0
"""Seconds between looks at the trainer."""
_REPORT_INTERVAL = 60.0
"""Seconds between messages about the wait."""


class TrainerWait:
    """The wait of a command for the trainers of runs: up to ``limit`` seconds, for all runs together."""

    def __init__(
        self,
        say: Callable[[str], None],
        limit: float = WAIT_LIMIT,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to wait.

        Args:
            say: function that prints a line.
            limit: maximum wait in seconds.
            clock: monotonic clock in seconds.
            sleep: function that waits for a number of seconds.
        """
        self.say = say
        self._left = limit
        self._clock = clock
        self._sleep = sleep
        self._probes: dict[Path, TrainerLivenessProbe] = {}

    def probe(self, folder: Path) -> TrainerLivenessProbe:
        """Return the probe of a run; it remembers what it has seen, so that no heartbeat is watched twice."""
        if folder not in self._probes:
            self._probes[folder] = TrainerLivenessProbe(folder, clock=self._clock)
        return self._probes[folder]

    def is_alive(self, folder: Path) -> bool:
        """Return whether the trainer of a run is alive, after watching its heartbeat if necessary.

        Raises:
            RunBusy: this is still not known when the time is over.
        """
        return any(self._observe(folder))

    def until_dead(self, folder: Path, *, local: bool) -> bool:
        """Wait until the trainer of a run has ended; return False if there was nothing to wait for.

        Args:
            folder: the run folder.
            local: whether to wait even for a trainer that is running on this machine.

        Raises:
            RunAlive: it is running on this machine, and ``local`` is False.
            RunBusy: the trainer is still alive when the time is over.
        """
        heartbeat = read_heartbeat(folder)
        waited = False
        for alive in self._observe(folder):
            if alive and not local and heartbeat is not None and heartbeat.trainer.is_local():
                raise run_alive(folder, heartbeat.trainer)
            waited = True
        return waited

    def _observe(self, folder: Path) -> Iterator[bool | None]:
        """Yield whether the trainer is alive, None for "not known yet", every second until it is dead."""
        if read_heartbeat(folder) is None:
            return
        probe, known, report_at = self.probe(folder), False, self._clock()
        while (alive := probe.is_alive()) is not False:
            yield alive
            now = self._clock()
            if now >= report_at or bool(alive) != known:
                self.say(self._describe(folder, known=bool(alive)))
                known, report_at = bool(alive), now + _REPORT_INTERVAL
            if self._left <= 0:
                raise RunBusy(f"{_trainer(folder)} may still be alive; try again later, or stop it")
            self._sleep(_POLL_INTERVAL)
            self._left -= self._clock() - now

    def _describe(self, folder: Path, *, known: bool) -> str:
        if not known:
            return f"watching the heartbeat of {_trainer(folder)} for up to {HEARTBEAT_TIMEOUT:.0f} s: it may be alive"
        return f"waiting for {_trainer(folder)} to end: it is alive; giving up in {max(0.0, self._left) / 60:.1f} min"


def _trainer(folder: Path) -> str:
    heartbeat = read_heartbeat(folder)
    return f"the trainer of {folder}" + ("" if heartbeat is None else f" ({heartbeat.trainer})")
