"""Decide which published points are recorded: valid steps, due streams, and only in the process that opened the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from telemetry.cadence import Cadence
from telemetry.recording.missed_points import MissedPoints
from telemetry.recording.record_queue import RecordQueue
from telemetry.recording.steps import parse_step
from telemetry.recording.warn_once import WarnOnce


class Admission:
    """Check points before they are queued; what is left out is counted or reported once."""

    def __init__(self, folder: Path, cadence: Cadence, queue: RecordQueue) -> None:
        """Admit points that are due according to ``cadence``, in this process only.

        Args:
            folder: the run folder, named in warnings.
            cadence: the rule that decides which iterations are due.
            queue: the queue, which counts points with invalid steps.
        """
        self._folder = folder
        self._cadence = cadence
        self._queue = queue
        self._recorded = queue.streams
        self._missed = MissedPoints(cadence.every)
        self._warn_once = WarnOnce()
        self._pid = os.getpid()

    def due(self, streams: Sequence[str] | str, step: int, *, final: bool) -> tuple[str, ...]:
        """Return the streams, or the only one, to record at an iteration; ``final`` makes all of them due."""
        streams = (streams,) if isinstance(streams, str) else streams
        try:
            number = parse_step(step)
        except ValueError as error:
            if self.admits_process():
                self._queue.reject(streams, error)
            return ()
        due = []
        for stream in streams:
            if final or self._cadence.due(stream, number):
                due.append(stream)
            elif stream not in self._recorded:
                self._missed.add(stream, number)
        return tuple(due) if due and self.admits_process() else ()

    def is_forked(self) -> bool:
        """Return whether this process is a forked child of the one that opened the run."""
        # It has no journal thread, and its copy of the queue's lock may stay locked forever.
        return os.getpid() != self._pid

    def admits_process(self) -> bool:
        """Return whether this process may publish; if not, report it once."""
        if not self.is_forked():
            return True
        self._warn_once(
            "forked",
            f"nothing published by process {os.getpid()} is recorded: it was forked after process {self._pid} had "
            f"opened the run in {self._folder}; open the run after the fork, in the process that trains (rank 0)",
        )
        return False

    def report_missed(self) -> None:
        """Report the streams that were published, but never at a due iteration."""
        for message in self._missed.warnings(self._recorded):
            self._warn_once(message, message)
