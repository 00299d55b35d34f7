"""The processes of a run: found by what started them, or by a mark in their environment, and killed by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def kill(pid: int) -> None:
    """Kill a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> Iterator[int]:
    """Give the processes that have a setting, as ``NAME=value``, in their environment."""
    wanted = mark.encode() + b"\0"
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                yield int(entry.name)


def named(trainer: int, whom: str) -> list[int]:
    """Give the processes of a job: trainer, delivery, core (wandb-core), or job (all of them)."""
    found = list(below(trainer))
    return {
        "trainer": [trainer],
        "delivery": [pid for pid in found if b"telemetry.worker" in command(pid)],
        "core": [pid for pid in found if b"wandb-core" in command(pid)],
        "job": [trainer, *found],
    }[whom]


def below(pid: int) -> Iterator[int]:
    """Give what a process has started, and what that has."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield int(child)
                yield from below(int(child))


def command(pid: int) -> bytes:
    """Give the command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
