"""wandb-core, the process that wandb starts to write and upload for it: noticed, and ended when it is left behind.

One that was frozen, or whose parent was killed, may still write what it had in memory when it wakes up: after somebody
has looked at what there is, and has begun to deliver the rest.
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

_NAME = b"wandb-core"
_SERVICE = "WANDB_SERVICE"
_END_TIMEOUT = 5.0
"""Seconds that a killed process may take to be gone."""
_LAST_WORDS = 10.0
"""Seconds that wandb-core may take to write and upload what it has when the process ends that started it."""

_started: set[int] = set()
"""Those that were started for sinks of this process."""
_working: dict[Path, int] = {}
"""Which of them works for a run, by its note, which could perhaps not be written."""


@contextlib.contextmanager
def noticing(note: Path | None = None) -> Iterator[None]:
    """Notice a wandb-core that is started inside, and note in a file, if there is one, which works for the run.

    One that was there before belongs to somebody else, a notebook that uses wandb itself, say, and is left alone.

    Raises:
        OSError: the note cannot be written.
    """
    before = _children()
    _forget_service_of_others()
    try:
        yield
    except Exception:
        # One that died at its start would be asked again and again.
        if not _children():
            _reconnect()
        raise
    finally:
        # One that was started for a run that could not be opened works for the next one.
        _started.update(_children() - before)
        ours = sorted(_started & _children())
        if ours:
            _end_with_this_process()
        if ours and note is not None:
            _working[note] = ours[-1]
            with open(note, "w", encoding="utf-8", opener=private_opener) as file:
                file.write(f"{socket.gethostname()} {os.getpid()} {ours[-1]}\n")


@contextlib.contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Kill wandb-core if what is inside takes longer, so that it fails: wandb's own time-outs need one that lives."""
    timer = threading.Timer(seconds, _kill_started)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end_noted(note: Path) -> None:
    """Kill the wandb-core that is noted, if it still lives; without effect where it cannot be seen.

    Raises:
        OSError: the note cannot be read or removed.
    """
    if note in _working:
        _kill(_working[note], str(os.getpid()).encode())
    with contextlib.suppress(FileNotFoundError, ValueError, UnicodeDecodeError):
        host, parent, pid = note.read_text(encoding="utf-8").split()
        if host == socket.gethostname() and parent.isdecimal() and pid.isdecimal():
            _kill(int(pid), parent.encode())
    forget(note)
    _bury()


def forget(note: Path) -> None:
    """Take note that no wandb-core works for the run any more; raises OSError."""
    _working.pop(note, None)
    note.unlink(missing_ok=True)


def _end_with_this_process() -> None:
    # What is registered last is called first, so that wandb has nothing left to do.
    atexit.unregister(_end_started)
    atexit.register(_end_started)


def _end_started() -> None:
    """Have wandb-core write out what it has, for a bounded time: wandb itself waits for a server for ever."""
    if _started & _children():
        signal.signal(signal.SIGALRM, _kill_started)
        signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS)
        _reconnect()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _kill_started(*_: object) -> None:
    for pid in _started & _children():
        os.kill(pid, signal.SIGKILL)


def _kill(pid: int, parent: bytes) -> None:
    # Its command line names it and who started it, so that a process id that was used again is told apart.
    if _is_core(pid) and parent in _command(pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_TIMEOUT
        while _is_core(pid) and time.monotonic() < deadline:
            time.sleep(0.01)


def _bury() -> None:
    """Forget those of this process that are dead, whoever killed them."""
    alive = _children()
    dead = _started - alive
    for pid in dead:
        _started.discard(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    if dead and not alive:
        _reconnect()


def _reconnect() -> None:
    """Have wandb start another one at its next ``init``."""
    import wandb

    # It tells the dead one to end, first, and exits with that one's code.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def _forget_service_of_others() -> None:
    """Do not share the wandb-core of a trainer that uses wandb itself, whose address is inherited."""
    token = os.environ.get(_SERVICE, "")
    if token and f"-{os.getpid()}-" not in token:
        del os.environ[_SERVICE]


def _children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in path.read_text(encoding="ascii").split())
    return {pid for pid in found if _is_core(pid)}


def _is_core(pid: int) -> bool:
    return any(part.endswith(_NAME) for part in _command(pid)[:1])


def _command(pid: int) -> list[bytes]:
    # That of a zombie is empty.
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
