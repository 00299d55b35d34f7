"""The time at which a training has to stop, given or read from SLURM. Does not import torch."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping

from aimnet2mult.config.duration import AUTO, parse_duration
from aimnet2mult.errors import ConfigError

__all__ = ["TimeLimit", "find_end"]

MARGIN, MARGIN_FRACTION = 60.0, 0.1
"""Time, in seconds, kept for ending the process, and its maximum as a fraction of the limit."""
QUERY_TIMEOUT = 10.0
"""Maximum time, in seconds, to wait for ``squeue``."""


def find_end(limit: str | None, started: float, environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the Unix time at which the process has to be over; None if there is no limit.

    Args:
        limit: The setting ``trainer.time_limit``.
        started: The Unix time at which the process started.
        environment: The environment variables.

    Raises:
        ConfigError: ``limit`` is invalid.
    """
    if limit != AUTO:
        return None if limit is None else started + parse_duration(limit)
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return None
    try:
        # Since SLURM 23.02.
        return float(environment["SLURM_JOB_END_TIME"])
    except (KeyError, ValueError):
        return _ask_slurm(job)


def _ask_slurm(job: str) -> float | None:
    """Return the end of a job according to ``squeue``; None if it does not answer, or if there is no limit."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%L"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    # SLURM omits leading fields that are zero: 5:00 are five minutes.
    left = done.stdout.strip()
    try:
        return time.time() + parse_duration("0:" * (2 - left.count(":")) + left)
    except ConfigError:
        return None


class TimeLimit:
    """A limit that is reached early enough for a checkpoint.

    The time kept for ending is a minute, or a tenth of the limit if that is less, and twice the longest interval
    between two questions so far, which covers the slowest iteration and the slowest checkpoint. Call `restart` when the
    iterations begin, since the time for reading the data says nothing about them.

    Args:
        end: The Unix time at which the process has to be over; None for no limit.
        clock: A clock with the same origin.
    """

    def __init__(self, end: float | None, *, clock: Callable[[], float] = time.time) -> None:
        self._end = end
        self._clock = clock
        self._last = clock()
        self._longest = 0.0
        self._margin = 0.0 if end is None else max(0.0, min(MARGIN, MARGIN_FRACTION * (end - self._last)))

    def restart(self) -> None:
        """Forget the intervals so far, and begin a new one."""
        self._last, self._longest = self._clock(), 0.0

    def is_reached(self) -> bool:
        """Return whether to stop now; call this after each iteration."""
        if self._end is None:
            return False
        now = self._clock()
        self._longest, self._last = max(self._longest, now - self._last), now
        return now + self._margin + 2 * self._longest >= self._end
