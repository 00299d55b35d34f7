"""A delivery process: ``python -m telemetry.worker``, started by the bus, told what to do on standard input."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

import msgspec

from telemetry.alive import TrainerWatch
from telemetry.delivery import Delivery, End
from telemetry.errors import TelemetryError
from telemetry.plugins import Sink, load
from telemetry.workers import REFUSED, Job

HUNG = 75
"""Exit code after a hook that did not return."""
FAILED = 70
"""Exit code after something unforeseen, or when the sink took nothing for too long."""


def main() -> int:
    """Deliver until the run has ended; give the exit code."""
    job = msgspec.json.decode(_first_line(), type=Job)
    folder = Path(job.folder)
    _be_humble()
    watch = TrainerWatch(folder)
    stop = _Stop(watch)
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
    while not delivery.lease.try_acquire():
        # An orphan of the attempt before hands over as soon as it sees this one's segment.
        nudges.wait(job.settings.poll)
        if watch.lives() is False:
            _say(f"{delivery.lease.holder()} delivers this run to {job.sink}")
            return 0
    end = delivery.run()
    _say(f"{job.sink}: {end.value}")
    return {End.REFUSED: REFUSED, End.GAVE_UP: FAILED}.get(end, 0)


class _Stop:
    """SIGTERM and SIGINT end this process only when the trainer is gone: with it, it gets them by mistake."""

    def __init__(self, watch: TrainerWatch) -> None:
        self._watch = watch
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def is_set(self) -> bool:
        return self._asked and self._watch.lives() is False


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


def _be_humble() -> None:
    """Run only when the machine has nothing better to do.

    A thread of the trainer's that loses its core holds up its whole OpenMP team.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)


def _hung(job: Job) -> None:
    _say(f"{job.sink} has not returned from a hook for {job.settings.hook_timeout:.0f} s: this process ends")
    # The thread that hangs cannot be ended in any other way; the lease is free as soon as this process is dead.
    os._exit(HUNG)


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TelemetryError as error:
        _say(f"error: {error}")
        sys.exit(REFUSED)
