"""The deliveries of a run that is being trained: a process for each sink, or threads."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from telemetry.delivery.delivery import Delivery
from telemetry.errors import TelemetryError
from telemetry.plugins.registry import Sink
from telemetry.run_folder.atomic_write import private_opener
from telemetry.run_folder.sink_progress import read_progress
from telemetry.settings import Settings

log = logging.getLogger("telemetry")

REFUSED = 78
"""Exit code of a delivery process whose sink refuses the run: starting it again would not help."""
FIRST_RESTART, LAST_RESTART = 1.0, 60.0
"""Seconds before a delivery process that died is started again; doubled each time."""


class Job(msgspec.Struct, kw_only=True):
    """What a delivery process is told, as one line of JSON on its standard input.

    Later bytes on its standard input mean: look at the journal now.
    """

    folder: str
    sink: str
    options: dict[str, Any]
    settings: Settings


class Workers(Protocol):
    """What the bus needs of the deliveries."""

    @property
    def names(self) -> Sequence[str]:
        """The sinks' names."""

    def start(self) -> None:
        """Start delivering."""

    def supervise(self) -> None:
        """Start again what has died. Called every few seconds."""

    def wake(self) -> None:
        """Have them look at the journal now."""

    def finish(self, timeout: float) -> None:
        """Wait until everything is delivered, for ``timeout`` seconds at most."""


class Processes:
    """A process for each sink, in a session of its own and of the lowest priority."""

    def __init__(self, folder: Path, sinks: Sequence[Sink], settings: Settings) -> None:
        self.names = [sink.name for sink in sinks]
        self._workers = [_Process(folder, sink, settings) for sink in sinks]

    def start(self) -> None:
        """Start the processes."""
        for worker in self._workers:
            worker.start()

    def supervise(self) -> None:
        """Start again those that have died."""
        for worker in self._workers:
            worker.supervise()

    def wake(self) -> None:
        """Have them look at the journal now."""
        for worker in self._workers:
            worker.send(b"\n")

    def finish(self, timeout: float) -> None:
        """Wait for the processes to end; those that do not in time are left to themselves."""
        deadline = time.monotonic() + timeout
        self.wake()
        while not all(worker.ended for worker in self._workers) and time.monotonic() < deadline:
            self.supervise()
            time.sleep(0.02)
        for worker in self._workers:
            worker.detach()


class _Process:
    def __init__(self, folder: Path, sink: Sink, settings: Settings) -> None:
        self.ended = False
        self._name = sink.name
        job = Job(folder=str(folder.absolute()), sink=sink.name, options=dict(sink.options), settings=settings)
        self._job = msgspec.json.encode(job) + b"\n"
        self._log = folder / "sinks" / f"{sink.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._delay = FIRST_RESTART

    def start(self) -> None:
        """Start it; if that cannot be done now, ``tend`` tries again."""
        self._started = time.monotonic()
        try:
            self._process = self._spawn()
        except OSError as error:
            log.warning("delivery to %s cannot be started: %s; it will be tried again", self._name, error)
            self._put_off()
        else:
            self.send(self._job)

    def supervise(self) -> None:
        if self.ended:
            return
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self.start()
        elif (code := self._process.poll()) is not None:
            self._bury(code)

    def detach(self) -> None:
        if self._process is None and not self.ended:
            # Its restart was being put off, and nobody will be there to start it later.
            self.start()
        if self._process is None:
            return
        # It outlives this process on purpose, so nobody is left to ask for its exit code.
        reaper = threading.Thread(target=self._process.wait, daemon=True)
        with contextlib.suppress(RuntimeError):  # a process that is ending starts no threads, and leaves no zombies
            reaper.start()
        self._close_stdin(self._process)

    def send(self, data: bytes) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            # It has died already, which tend sees.
            return

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(exist_ok=True)
        # One core is not ours to take: libraries that a backend brings are kept to one thread each.
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with open(self._log, "ab", opener=private_opener) as output:
            # -P: a file of the user's in the current folder must not stand in for a module of ours.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "telemetry.worker"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
        _humble(process.pid)
        return process

    def _bury(self, code: int) -> None:
        assert self._process is not None  # noqa: S101 - it has just given its code
        self._close_stdin(self._process)
        self._process = None
        self.ended = code in {0, REFUSED}
        if code == REFUSED:
            told = read_progress(self._log.parent.parent, self._name)
            why = told.last_error if told is not None and told.state == "refused" else "see the log"
            log.warning("delivery to %s has ended: the sink refuses the run (%s); %s", self._name, why, self._log)
        if self.ended:
            return
        if time.monotonic() - self._started > LAST_RESTART:
            self._delay = FIRST_RESTART
        # When it has died so often that a minute passes between two tries, this has been said.
        level = logging.WARNING if self._delay < LAST_RESTART else logging.DEBUG
        text = "delivery to %s ended with code %s and will be started again; see %s"
        log.log(level, text, self._name, code, self._log)
        self._put_off()

    def _put_off(self) -> None:
        self._start_at = time.monotonic() + self._delay
        self._delay = min(LAST_RESTART, self._delay * 2)

    @staticmethod
    def _close_stdin(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(OSError):  # what could not be sent is of no use any more
            process.stdin.close()


class Threads:
    """A thread for each sink, in this process: for notebooks, and for sinks handed over as objects."""

    def __init__(self, folder: Path, sinks: Sequence[Sink], settings: Settings) -> None:
        self.names = [sink.name for sink in sinks]
        self._workers = [_Thread(folder, sink, settings) for sink in sinks]

    def start(self) -> None:
        """Start the threads."""
        for worker in self._workers:
            try:
                worker.thread.start()
            except RuntimeError as error:
                # It is the bus's thread that starts them, and it has a journal to write.
                log.warning("delivery to %s cannot be started: %s; telemetry sync delivers", worker.name, error)

    def supervise(self) -> None:
        """Do nothing: a thread that delivers does not die."""

    def wake(self) -> None:
        """Have them look at the journal now."""
        for worker in self._workers:
            worker.nudge.set()

    def finish(self, timeout: float) -> None:
        """Wait for the threads; those that do not end in time end with the process."""
        deadline = time.monotonic() + timeout
        self.wake()
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(max(0.0, deadline - time.monotonic()))
            worker.stop = True
            worker.nudge.set()


class _Thread:
    def __init__(self, folder: Path, sink: Sink, settings: Settings) -> None:
        self.name = sink.name
        self._folder = folder
        self._sink = sink
        self._settings = settings
        self.nudge = threading.Event()
        self.stop = False
        self.thread = threading.Thread(target=self._run, name=f"telemetry-{sink.name}", daemon=True)

    def _run(self) -> None:
        try:
            delivery = self._delivery()
            while not delivery.lease.try_acquire():
                self._wait(self._settings.poll)
                if self.stop:
                    return
            delivery.run()
        except (OSError, TelemetryError) as error:
            log.warning("delivery to %s ended: %s", self._sink.name, error)

    def _delivery(self) -> Delivery:
        return Delivery(
            self._folder,
            self._sink,
            self._settings,
            wait=self._wait,
            stop=lambda: self.stop,
            on_hang=self._say_hung,
            say=log.warning,
        )

    def _wait(self, seconds: float) -> None:
        self.nudge.wait(seconds)
        self.nudge.clear()

    def _say_hung(self) -> None:
        log.warning("%s has been in a hook for %.0f s", self._sink.name, self._settings.hook_timeout)


def _humble(pid: int) -> None:
    """Let a process run only when the machine has nothing better to do, from its first moment on.

    A thread of the trainer's that loses its core holds up its whole OpenMP team; and what a training begins with, the
    import of torch, takes all there is.
    """
    with contextlib.suppress(OSError):  # it has died already, or may not be touched
        try:
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        except (AttributeError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, pid, 19)
