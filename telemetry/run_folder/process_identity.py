"""Identify a process so that other processes, possibly on other machines, can check whether it is alive."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a process.

    Attributes:
        host: the hostname.
        pid: the process ID.
        started: the start time, which distinguishes processes that reuse an ID.
        kernel: boot ID and PID namespace; process IDs are comparable only if these are equal. Empty if unknown.
    """

    host: str
    pid: int
    started: str
    kernel: str

    def is_local(self) -> bool:
        """Return whether the process can be checked from here by its ID."""
        return self._shares_kernel() and _started(self.pid) is not None

    def is_dead(self) -> bool:
        """Return whether the process is known to have ended; False if that cannot be checked from here."""
        return self._shares_kernel() and _started(self.pid) not in {self.started, None}

    def _shares_kernel(self) -> bool:
        return bool(self.kernel) and self.kernel == _kernel()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def current_process() -> ProcessIdentity:
    """Return the identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(host=socket.gethostname(), pid=pid, started=_started(pid) or "", kernel=_kernel())


def _kernel() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return f"{boot}/{namespace}"


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot.

    It is empty if the process has ended or is a zombie, and None if /proc hides the processes of its user (hidepid).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except PermissionError:
        return None
    except OSError:
        return None if _belongs_to_other_user(pid) else ""
    # The command name, in parentheses, may contain anything; count the fields of proc(5) after it.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _belongs_to_other_user(pid: int) -> bool:
    """Return whether a process exists that this one may not signal; signal 0 only asks."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False
