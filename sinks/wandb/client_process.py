"""wandb-core, the client process in which wandb writes and uploads: tracked, and killed if left over.

A client that was suspended, or whose parent was killed, may write the rows in its memory at any later time, even after
another delivery has inspected the destination and begun to send the missing rows.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_EXECUTABLE = b"wandb-core"
_SERVICE_VARIABLE = "WANDB_SERVICE"
_KILL_TIMEOUT = 5.0
"""Seconds for a killed process to disappear."""

_started: set[int] = set()
"""Process IDs of the clients started for sinks of this process."""
_client_of_run: dict[str, int] = {}
"""The client of each run of this process, by run ID: after a fault, it may have no file of the run open."""


@contextlib.contextmanager
def track_client(run_id: str | None = None, *, exit_timeout: float) -> Iterator[None]:
    """Detect a client that is started inside the block, and note which client serves the run.

    A client that was already running, for example the client of a notebook that uses wandb itself, is not affected.

    Args:
        run_id: the ID of the W&B run that is opened inside the block; None if none is.
        exit_timeout: seconds that the client may take to write the rows in its memory when this process exits.
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
        if ours and run_id is not None:
            _client_of_run[run_id] = ours[-1]


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


def kill_clients_of_run(folder: Path, run_id: str) -> None:
    """Kill the clients on this machine that still write the files of a run.

    The client of another process is recognized by its open files, which only the client itself can open: a note of its
    process ID could name any process of the user.

    Args:
        folder: the absolute path of wandb's folder, without links.
        run_id: the ID of the W&B run, which is part of the names of its files.
    """
    known = _client_of_run.pop(run_id, None)
    if known in _started & _children():
        _kill(known)
    for pid in _own_clients():
        if any(path.startswith(f"{folder}/") and run_id in path for path in _open_files(pid)):
            _kill(pid)
    _reap()


def release_client(run_id: str) -> None:
    """Note that no client serves a run any more, because the run is stored completely."""
    _client_of_run.pop(run_id, None)


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


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    give_up_at = time.monotonic() + _KILL_TIMEOUT
    while _is_client(pid) and time.monotonic() < give_up_at:
        time.sleep(0.01)


def _own_clients() -> list[int]:
    """Return the process IDs of all clients of this user."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if path.stat().st_uid == os.geteuid() and _is_client(int(path.name)):
                found.append(int(path.name))
    return found


def _open_files(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it has ended, or closed this file
            found.append(str(path.readlink()))
    return found


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
