"""The processes of a run, found by their parents or their environment, and killed by ID."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def kill(pid: int) -> None:
    """Kill a process if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> Iterator[int]:
    """Yield the processes with a variable, given as ``NAME=value``, in their environment."""
    wanted = mark.encode() + b"\0"
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                yield int(entry.name)


def named(trainer: int, target: str) -> list[int]:
    """Return the processes of a job: trainer, delivery, core (wandb-core), or job (all of them)."""
    found = list(below(trainer))
    return {
        "trainer": [trainer],
        "delivery": [pid for pid in found if b"telemetry.worker" in command(pid)],
        "core": [pid for pid in found if b"wandb-core" in command(pid)],
        "job": [trainer, *found],
    }[target]


def below(pid: int) -> Iterator[int]:
    """Yield the descendants of a process."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield int(child)
                yield from below(int(child))


def command(pid: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
