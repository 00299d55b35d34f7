"""A delivery process: ``python -m telemetry.worker``, started by the bus, told what to do on standard input."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

import msgspec

from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.supervisor import REFUSED, Job
from telemetry.errors import TelemetryError
from telemetry.plugins.registry import Sink, load
from telemetry.run_folder.heartbeat import TrainerLivenessProbe, read_heartbeat

HUNG = 75
"""Exit code after a hook that did not return."""
FAILED = 70
"""Exit code after an end that leaves something to be delivered."""


def main() -> None:
    """Deliver until the run has ended, then exit."""
    try:
        sys.exit(_deliver())
    except TelemetryError as error:
        _say(f"error: {error}")
        sys.exit(REFUSED)


def _deliver() -> int:
    """Deliver until the run has ended; give the exit code."""
    job = msgspec.json.decode(_first_line(), type=Job)
    folder = Path(job.folder)
    watch = TrainerLivenessProbe(folder)
    stop = _Stop(folder)
    nudges = _Nudges()
    delivery = Delivery(
        folder,
        Sink(job.sink, job.options, load(job.sink)),
        job.settings,
        watch=watch,
        wait=nudges.wait,
        stop=stop.is_set,
        on_hang=lambda: _hung(job),
        say=_say,
    )
    alone_since: float | None = None
    while not delivery.lease.try_acquire():
        # An orphan of the attempt before hands over as soon as it sees this one's segment.
        nudges.wait(job.settings.poll)
        if watch.is_alive() is False:
            alone_since = alone_since or time.monotonic()
            if stop.is_set() or time.monotonic() - alone_since > job.settings.linger:
                _say(f"{delivery.lease.holder()} delivers this run to {job.sink}")
                return FAILED
    end = delivery.run()
    _say(f"{job.sink}: {end.value}")
    # Whoever handed over while his trainer lives (a stalled machine lost him the lease) is to ask for it again.
    return {DeliveryOutcome.COMPLETE: 0, DeliveryOutcome.REFUSED: REFUSED}.get(end, FAILED)


class _Stop:
    """SIGTERM and SIGINT end this process only when they come after the end of the trainer's process.

    Those before it are meant for the trainer, which still has to write how its run ends, and waits for this process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        alive = read_heartbeat(self._folder)
        self._asked = self._asked or alive is None or alive.trainer.is_dead()

    def is_set(self) -> bool:
        return self._asked


class _Nudges:
    """Sleep until the time is over or something comes in on standard input."""

    def __init__(self) -> None:
        self._open = True

    def wait(self, seconds: float) -> None:
        if not self._open:
            time.sleep(seconds)
            return
        readable, _, _ = select.select([0], [], [], seconds)
        # The end of the pipe tells nothing: forked loader workers keep it open, a closed bus closes it.
        if readable and not os.read(0, 1024):
            self._open = False


def _first_line() -> bytes:
    # Unbuffered: later bytes must stay in the pipe for select.
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _hung(job: Job) -> None:
    _say(f"{job.sink} has not returned from a hook for {job.settings.hook_timeout:.0f} s: this process ends")
    # The thread that hangs cannot be ended in any other way; the lease is free as soon as this process is dead.
    os._exit(HUNG)


def _say(line: str) -> None:
    # Delivery goes on when its log is on a disk that is full.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        sys.stderr.flush()
