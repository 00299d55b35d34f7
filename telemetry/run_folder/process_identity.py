"""Which process this is, in a way that another process, perhaps on another host, can check."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A process: where it runs, its id there, and when it started (so that a reused id is told apart).

    ``kernel`` is the boot id and the process-id namespace: where two of them are equal, process ids can be compared.
    It is empty where the system does not tell.
    """

    host: str
    pid: int
    started: str
    kernel: str

    def is_local(self) -> bool:
        """Say whether this machine can tell by the process id if the process lives."""
        return bool(self.kernel) and self.kernel == _kernel()

    def is_dead(self) -> bool:
        """Say whether the process is known to have ended; False also when that cannot be told from here."""
        return self.is_local() and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def current_process() -> ProcessIdentity:
    """Give the identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(host=socket.gethostname(), pid=pid, started=_started(pid), kernel=_kernel())


def _kernel() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return f"{boot}/{namespace}"


def _started(pid: int) -> str:
    """Give the start time of a process in clock ticks since boot; empty if there is none, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The command name, in parentheses, may hold anything; the fields of proc(5) are counted from behind it.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
