"""A delivery process as seen by its parent: start, restart, wake and detach it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from telemetry.backoff import Backoff
from telemetry.delivery.worker_protocol import EXIT_HUNG, EXIT_REJECTED, STOP_SIGNALS, Job
from telemetry.logger import log
from telemetry.plugins.registry import Sink
from telemetry.run_folder.atomic_write import private_opener
from telemetry.run_folder.paths import log_path, near
from telemetry.run_folder.permissions import make_folder
from telemetry.run_folder.sink_progress import read_progress
from telemetry.settings import Settings

RESTART_BACKOFF_INITIAL, RESTART_BACKOFF_MAX = 1.0, 60.0
"""Initial and maximum delay before a delivery process that died is restarted, in seconds; doubled each time."""
STABLE_AFTER = 60.0
"""Runtime in seconds after which a delivery process that dies is restarted with the initial delay again."""


def start_process(log_file: Path) -> subprocess.Popen[bytes]:
    """Start a delivery process in a new session and with the lowest priority; it waits for its ``Job``.

    Raises:
        OSError: the process or its log file cannot be created.
    """
    make_folder(log_file.parent)
    # Training owns the cores: limit the libraries of a backend to one thread each.
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(log_file, "ab", opener=private_opener) as output, _stop_signals_blocked():
        # -P: a file in the current folder must not shadow an installed module.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "telemetry.worker"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
        )
    _lower_priority(process.pid)
    return process


class ProcessWorker:
    """The delivery process of one sink, restarted until everything is delivered.

    ``wake`` may be called from any thread, the other methods from one thread at a time.

    Args:
        folder: the run folder.
        sink: the sink to deliver to; the process loads it by name.
        settings: the settings for the process.
        start_process: function that starts a process with the given log file.
        backoff: delays before restarts.
        clock: monotonic clock in seconds.

    Attributes:
        has_ended: whether delivery is complete, or the sink has rejected the run.
    """

    def __init__(
        self,
        folder: Path,
        sink: Sink,
        settings: Settings,
        *,
        start_process: Callable[[Path], subprocess.Popen[bytes]] = start_process,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_ended = False
        self._folder = folder
        self._name = sink.name
        self._hook_timeout = settings.hook_timeout
        job = Job(folder=str(folder.absolute()), sink=sink.name, options=dict(sink.options), settings=settings)
        self._job = msgspec.json.encode(job) + b"\n"
        self._log_file = log_path(folder, sink.name)
        self._start_process = start_process
        self._backoff = backoff or Backoff(RESTART_BACKOFF_INITIAL, RESTART_BACKOFF_MAX)
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._restart_at = 0.0

    def start(self) -> None:
        """Start the process; if that fails, ``supervise`` retries."""
        self._started_at = self._clock()
        try:
            self._process = self._start_process(self._log_file)
        except OSError as error:
            log.warning("%s: cannot start delivery (%s); retrying", self._name, error)
            self._schedule_restart()
        else:
            self._send(self._job)

    def supervise(self) -> None:
        """Restart the process if it has died."""
        if self.has_ended:
            return
        if self._process is None:
            if self._clock() >= self._restart_at:
                self.start()
        elif (code := self._process.poll()) is not None:
            self._handle_exit(self._process, code)

    def wake(self) -> None:
        """Make the process read the journal now."""
        self._send(b"\n")

    def detach(self) -> None:
        """Let the process outlive this one; it ends by itself when everything is delivered."""
        if self._process is None and not self.has_ended:
            # A pending restart has no later opportunity.
            self.start()
        if self._process is None:
            return
        # Reaps the process if it ends before this one.
        reaper = threading.Thread(target=self._process.wait, daemon=True)
        # At interpreter exit no thread can be started, but then no zombie remains either.
        with contextlib.suppress(RuntimeError):
            reaper.start()
        _close_stdin(self._process)

    def _send(self, data: bytes) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        # Fails if the process has died or supervise has just closed the pipe; supervise restarts it.
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(data)
            process.stdin.flush()

    def _handle_exit(self, process: subprocess.Popen[bytes], code: int) -> None:
        _close_stdin(process)
        self._process = None
        self.has_ended = code in {0, EXIT_REJECTED}
        if code == EXIT_REJECTED and not self._is_refused():
            log.warning("%s: delivery cannot start; see %s", self._name, near(self._log_file))
        if self.has_ended:
            return
        if self._clock() - self._started_at > STABLE_AFTER:
            self._backoff.reset()
        # At the maximum delay, the user has been warned often enough.
        level = logging.DEBUG if self._backoff.is_at_maximum else logging.WARNING
        text = f"delivery ended with code {code} and"
        if code == EXIT_HUNG:
            text = f"no answer for {self._hook_timeout:.0f} s; delivery"
        log.log(level, "%s: %s will be restarted; see %s", self._name, text, near(self._log_file))
        self._schedule_restart()

    def _is_refused(self) -> bool:
        """Return whether the sink itself has rejected the run, which ``SinkNotices`` reports."""
        progress = read_progress(self._folder, self._name)
        return progress is not None and progress.state == "refused"

    def _schedule_restart(self) -> None:
        self._restart_at = self._clock() + self._backoff.next_delay()


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block signals in this thread, and thus in a process that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(OSError):  # unsent data is no longer needed
        process.stdin.close()


def _lower_priority(pid: int) -> None:
    """Let a process run only on idle cores, from the start.

    A training thread that loses its core delays its whole OpenMP team, and importing torch at the start of training
    uses every core.
    """
    with contextlib.suppress(OSError):  # it has already ended, or access is denied
        try:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        except (AttributeError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, pid, 19)
