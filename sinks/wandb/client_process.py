"""wandb-core, the client process in which wandb writes and uploads: tracked, and killed if left over.

A client that was suspended, or whose parent was killed, may write the rows in its memory at any later time, even after
another delivery has inspected the destination and begun to send the missing rows.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from telemetry.sink_api import private_opener

_EXECUTABLE = b"wandb-core"
_SERVICE_VARIABLE = "WANDB_SERVICE"
_KILL_TIMEOUT = 5.0
"""Seconds for a killed process to disappear."""

_started: set[int] = set()
"""Process IDs of the clients started for sinks of this process."""
_client_of_run: dict[Path, int] = {}
"""The client of each run, keyed by PID file, in case the file could not be written."""


@contextlib.contextmanager
def record_client_pid(pid_file: Path | None = None, *, exit_timeout: float) -> Iterator[None]:
    """Detect a client that is started inside the block, and record in a file which client serves the run.

    A client that was already running, for example the client of a notebook that uses wandb itself, is not affected.

    Args:
        pid_file: the PID file to write; by default none.
        exit_timeout: seconds that the client may take to write the rows in its memory when this process exits.

    Raises:
        OSError: the PID file cannot be written.
    """
    before = _children()
    _leave_inherited_service()
    try:
        yield
    except Exception:
        # Otherwise wandb would keep calling a client that died on startup.
        if not _children():
            _disconnect()
        raise
    finally:
        # A client started for a run that could not be opened serves the next run.
        _started.update(_children() - before)
        ours = sorted(_started & _children())
        if ours:
            _stop_client_at_exit(exit_timeout)
        if ours and pid_file is not None:
            _client_of_run[pid_file] = ours[-1]
            with open(pid_file, "w", encoding="utf-8", opener=private_opener) as file:
                file.write(f"{socket.gethostname()} {os.getpid()} {ours[-1]}\n")


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Kill the client if the block exceeds ``seconds``, so that calls fail: wandb's own timeouts need it alive."""
    timer = threading.Timer(seconds, _kill_started)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def kill_recorded_client(pid_file: Path) -> None:
    """Kill the recorded client if it is still alive on this machine, and remove the PID file.

    Raises:
        OSError: the file cannot be read or removed.
    """
    if pid_file in _client_of_run:
        _kill(_client_of_run[pid_file], str(os.getpid()).encode())
    with contextlib.suppress(FileNotFoundError, ValueError, UnicodeDecodeError):
        with open(pid_file, encoding="utf-8", opener=private_opener) as file:
            host, parent, pid = file.read().split()
        if host == socket.gethostname() and parent.isdecimal() and pid.isdecimal():
            _kill(int(pid), parent.encode())
    remove_pid_file(pid_file)
    _reap()


def remove_pid_file(pid_file: Path) -> None:
    """Record that no client serves the run any more.

    Raises:
        OSError: the file cannot be removed.
    """
    _client_of_run.pop(pid_file, None)
    pid_file.unlink(missing_ok=True)


def _stop_client_at_exit(timeout: float) -> None:
    # Exit handlers run in reverse order of registration: this one must run before wandb's own.
    atexit.unregister(_stop_started)
    atexit.register(_stop_started, timeout)


def _stop_started(timeout: float) -> None:
    """Let the client write the rows in its memory for up to ``timeout`` seconds; wandb itself would wait forever."""
    if _started & _children():
        signal.signal(signal.SIGALRM, _kill_started)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        _disconnect()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _kill_started(*_: object) -> None:
    for pid in _started & _children():
        os.kill(pid, signal.SIGKILL)


def _kill(pid: int, parent: bytes) -> None:
    # The command line contains the executable and the parent's ID, so a reused process ID is detected.
    if _is_client(pid) and parent in _command_line(pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        give_up_at = time.monotonic() + _KILL_TIMEOUT
        while _is_client(pid) and time.monotonic() < give_up_at:
            time.sleep(0.01)


def _reap() -> None:
    """Wait for clients of this process that have died, and disconnect wandb from them."""
    alive = _children()
    dead = _started - alive
    for pid in dead:
        _started.discard(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    if dead and not alive:
        _disconnect()


def _disconnect() -> None:
    """Stop the client, if it is alive, so that wandb starts a new one at the next ``init``."""
    import wandb

    # teardown first calls the client, which may be dead, and exits with the client's exit code.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def _leave_inherited_service() -> None:
    """Ignore a client inherited, through the environment, from a parent process that itself uses wandb."""
    token = os.environ.get(_SERVICE_VARIABLE, "")
    if token and f"-{os.getpid()}-" not in token:
        del os.environ[_SERVICE_VARIABLE]


def _children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in path.read_text(encoding="ascii").split())
    return {pid for pid in found if _is_client(pid)}


def _is_client(pid: int) -> bool:
    return any(part.endswith(_EXECUTABLE) for part in _command_line(pid)[:1])


def _command_line(pid: int) -> list[bytes]:
    # Empty for a zombie.
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
