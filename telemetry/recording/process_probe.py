"""Processor time and memory of this process and its descendants, from psutil."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import psutil

from telemetry.metrics import Metric

_GIB = 1 << 30


class ProcessProbe:
    """Read the load that a process and its descendants cause, including loader workers and delivery processes.

    Memory shared by several of these processes counts once: it is the sum of their proportional set sizes (PSS), or of
    their resident set sizes on systems without PSS. Processes that may not be read are left out.
    """

    metrics: Mapping[str, Metric] = {
        "cpu": Metric(unit="%", label="processor time of all processes of the run, in percent of one core"),
        "memory": Metric(unit="GiB", label="memory of all processes of the run"),
    }

    def __init__(self) -> None:
        """Start with the processes of the caller."""
        self._process = psutil.Process()
        self._last: tuple[float, float] | None = None

    def read(self) -> dict[str, float]:
        """Return the memory, and from the second call on the processor time per elapsed time since the last one."""
        processes = [self._process, *self._process.children(recursive=True)]
        values = {"memory": sum(map(_memory, processes)) / _GIB}
        last, self._last = self._last, (time.monotonic(), sum(map(_cpu_time, processes)))
        if last is not None:
            elapsed, used = (now - before for now, before in zip(self._last, last, strict=True))
            # The time of a process that has ended without being waited for is lost.
            values["cpu"] = 100 * max(0.0, used) / elapsed
        return values


def _cpu_time(process: Any) -> float:
    """Return the processor time of a process so far in seconds, including that of children that have ended."""
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _memory(process: Any) -> int:
    """Return the memory of a process in bytes; 0 if it has ended or may not be read."""
    with contextlib.suppress(psutil.Error):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.rss))
    return 0
