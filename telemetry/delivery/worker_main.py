"""The entry point of a delivery process: ``python -m telemetry.worker`` delivers to one sink.

The bus starts it and writes its ``Job`` to standard input.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

import msgspec

from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.log_stream import LogStream, stamped
from telemetry.delivery.worker_protocol import EXIT_FAILED, EXIT_HUNG, EXIT_REJECTED, STOP_SIGNALS, Job
from telemetry.errors import TelemetryError
from telemetry.plugins.registry import Sink, load
from telemetry.run_folder.heartbeat import read_heartbeat
from telemetry.run_folder.permissions import UMASKS, mode_of
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

READ_SIZE = 1024
"""Bytes read from standard input at a time; each is a wake-up call."""


def main() -> None:
    """Deliver until the run has ended, then exit."""
    # SDKs print what servers answer.
    sys.stdout, sys.stderr = LogStream(sys.stdout), LogStream(sys.stderr)
    try:
        sys.exit(_run(msgspec.json.decode(_read_line(), type=Job)))
    except TelemetryError as error:
        _log(f"error: {error}")
        sys.exit(EXIT_REJECTED)


def _run(job: Job) -> int:
    """Deliver until the run has ended; return the exit code."""
    folder = Path(job.folder)
    # For what the sink and its backend create; it holds until this process ends.
    os.umask(UMASKS[mode_of(folder)])
    liveness = TrainerLivenessProbe(folder)
    stop = _StopSignal(folder)
    stdin = _WakeUps()
    delivery = Delivery(
        folder,
        Sink(job.sink, job.options, load(job.sink)),
        job.settings,
        liveness=liveness,
        wait=stdin.wait,
        stop=stop.is_set,
        on_hang=lambda: _exit_hung(job),
        log=_log,
    )
    if not _acquire_lease(delivery, job, liveness, stop, stdin):
        return EXIT_FAILED
    outcome = delivery.run()
    _log(f"{job.sink}: {outcome.value}")
    # After HANDED_OVER a live trainer restarts this process: it may have lost the lease because the machine stalled.
    return {DeliveryOutcome.COMPLETE: 0, DeliveryOutcome.REJECTED: EXIT_REJECTED}.get(outcome, EXIT_FAILED)


def _acquire_lease(
    delivery: Delivery, job: Job, liveness: TrainerLivenessProbe, stop: _StopSignal, stdin: _WakeUps
) -> bool:
    """Wait for the lease; return False if another process still holds it ``linger`` seconds after the trainer's end.

    A delivery left over from the previous attempt releases the lease as soon as it sees the new attempt.
    """
    alone_since: float | None = None
    while not delivery.lease.try_acquire():
        stdin.wait(job.settings.poll)
        if liveness.is_alive() is False:
            alone_since = alone_since or time.monotonic()
            if stop.is_set() or time.monotonic() - alone_since > job.settings.linger:
                _log(f"{delivery.lease.holder()} is delivering this run to {job.sink}")
                return False
    return True


class _StopSignal:
    """Signals that ask a job to end; they end this process only if they arrive after the trainer has ended.

    Earlier ones are meant for the trainer, which still has to record how its run ends and waits for this process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_set = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)
        # They were blocked until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _handle(self, *_: object) -> None:
        heartbeat = read_heartbeat(self._folder)
        self._is_set = self._is_set or heartbeat is None or heartbeat.trainer.is_dead()

    def is_set(self) -> bool:
        return self._is_set


class _WakeUps:
    """Wake-up calls on standard input; each ends ``wait`` before its timeout."""

    def __init__(self) -> None:
        self._is_open = True

    def wait(self, seconds: float) -> None:
        if not self._is_open:
            time.sleep(seconds)
            return
        readable, _, _ = select.select([0], [], [], seconds)
        # End of file does not mean that the trainer has ended: closing the bus causes it, and forked data loader
        # workers prevent it.
        if readable and not os.read(0, READ_SIZE):
            self._is_open = False


def _read_line() -> bytes:
    # Unbuffered: later bytes must stay in the pipe for select.
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _exit_hung(job: Job) -> None:
    _log(f"a hook of {job.sink} has not returned for {job.settings.hook_timeout:.0f} s: ending this process")
    # There is no other way to end a hung thread; the lease is free as soon as this process has ended.
    os._exit(EXIT_HUNG)


def _log(line: str) -> None:
    sys.stderr.write(stamped(line))
    sys.stderr.flush()
