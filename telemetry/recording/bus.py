"""MetricBus: accept metrics from the trainer and write them durably from a background thread."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from telemetry.alerts.detector import Divergence
from telemetry.cadence import Cadence
from telemetry.delivery.receipt import Receipt
from telemetry.errors import SettingError
from telemetry.metrics import Metric
from telemetry.recording.admission import Admission
from telemetry.recording.arguments import check_metrics
from telemetry.recording.ending import InterpreterExit, status_after
from telemetry.recording.journal_thread import JournalThread
from telemetry.recording.limits import FLUSH_TIMEOUT
from telemetry.recording.media_content import Encoded
from telemetry.recording.media_methods import MediaMethods
from telemetry.recording.media_recorder import MediaRecorder
from telemetry.recording.params import plain_params
from telemetry.recording.record_queue import StreamValuesSource, ValuesSource
from telemetry.recording.run_closer import RunCloser
from telemetry.recording.steps import parse_step
from telemetry.records import Alert, Level, RunUpdate, Status, now_ms
from telemetry.run_folder.heartbeat import Counts
from telemetry.run_folder.sink_progress import read_progress
from telemetry.units import factors

_MAX_ALERT_LENGTH = 20_000
"""Maximum number of characters of the title and of the text of an alert in the queue."""
_DRAIN_POLL_INTERVAL = 0.05
"""Poll interval of ``drain`` in seconds."""


class MetricBus(MediaMethods):
    """Publish the metrics of a run; returned by ``telemetry.open_run``.

    Any thread may call any method. Only ``flush``, ``drain`` and ``close`` block; no method raises because a disk or a
    backend fails, or because a step or a value is invalid: what cannot be recorded is counted in ``counts().dropped``,
    and reported once. In a forked child, every method does nothing, with one warning. Use the bus as a context manager,
    or call ``close``; a run left open at exit is closed as failed after an uncaught exception, otherwise as finished.

    Attributes:
        folder: the run folder.
        cadence: the rule that decides which iterations are due.
        due: ``due(stream, step)`` returns whether ``publish`` records this stream at this iteration.
        factors: conversion factors from the source unit to the unit of each metric, by full name.
    """

    def __init__(
        self,
        folder: Path,
        journal_thread: JournalThread,
        *,
        cadence: Cadence,
        factors: Mapping[str, float],
        drain_timeout: float,
        close_timeout: float,
        media: MediaRecorder,
    ) -> None:
        """Publish through a started journal thread.

        Args:
            folder: the run folder.
            journal_thread: the thread that writes the records in its queue.
            cadence: the rule that decides which iterations are due.
            factors: conversion factors by full name.
            drain_timeout: how long ``close`` waits for the sinks by default, in seconds.
            close_timeout: how long ``close`` waits for the journal thread, in seconds.
            media: the recorder of texts, tables, images, histograms and artifacts.
        """
        self.folder = folder
        self.cadence = cadence
        self.due = cadence.due
        self.factors = factors
        self._thread = journal_thread
        self._queue = journal_thread.queue
        self._media = media
        self._drain_timeout = drain_timeout
        self._closer = RunCloser(folder, journal_thread, media, close_timeout)
        self._admission = Admission(folder, cadence, self._queue)
        self._interpreter_exit = InterpreterExit()
        atexit.register(self._close_at_exit)

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Active anomaly alerts."""
        return self._thread.appender.alerts

    @property
    def diverged(self) -> Divergence | None:
        """Why the run is considered diverged, or None."""
        return self._thread.appender.diverged

    @property
    def last_healthy_step(self) -> int:
        """The last iteration with finite watched metrics and no loss far above its usual or lowest level."""
        return self._thread.appender.last_healthy_step

    def publish(self, stream: str, step: int, values: ValuesSource, *, final: bool = False) -> None:
        """Offer the values of one stream at an iteration; do nothing unless the iteration is due.

        Args:
            stream: ``train``, ``val`` …
            step: the global iteration; a step lower than the previous one is accepted, with one warning.
            values: values by metric name, in source units; or a callable that returns them, called in the journal
                thread. A value that is not one number is left out. A name that is not declared is declared when it
                first appears, by the first pattern that matches it or without a unit.
            final: whether to record them even if the iteration is not due, unless the last record of this stream
                already has this step.
        """
        if self._admission.due((stream,), step, final=final):
            source = (lambda: {stream: values()}) if callable(values) else {stream: _copy(values)}
            self._queue.put((stream,), parse_step(step), source, final=final)

    def publish_group(
        self, streams: Sequence[str], step: int, values: StreamValuesSource, *, final: bool = False
    ) -> None:
        """Offer the values of several streams at one iteration, to be written together.

        ``values`` is a mapping by stream, or a callable that returns one; everything else is as for ``publish``.
        """
        if due := self._admission.due(streams, step, final=final):
            if isinstance(values, Mapping):
                values = {stream: _copy(stream_values) for stream, stream_values in values.items()}
            self._queue.put(due, parse_step(step), values, final=final)

    def alert(self, title: str, text: str = "", *, step: int, level: Level = "warning") -> None:
        """Publish an alert to every sink that supports alerts.

        Args:
            title: what happened, in a few words; truncated to 250 characters.
            text: the details; truncated to 4,000 characters.
            step: the global iteration at which it was noticed.
            level: ``info``, ``warning`` or ``error``.
        """
        if self._admission.admits_process():
            self._queue.put_record("alert", step, _reported(title, text, step, level))

    def params(self, params: object) -> None:
        """Add parameters to the run, or change some; the forms are those of ``open_run(params=…)``."""
        if self._admission.admits_process():
            try:
                update = RunUpdate(seq=0, time=0, params=plain_params(params))
            except SettingError as error:
                self._queue.reject(("parameters",), error, "invalid parameters")
            else:
                self._queue.put_record("parameters", 0, update)

    def declare(self, metrics: Mapping[str, Metric]) -> None:
        """Declare further metrics, or patterns of names, as in ``open_run``; a metric keeps its first declaration.

        Raises:
            SettingError, UnitError: a declaration is invalid.
        """
        check_metrics(metrics, resumes=False)
        factors(metrics)
        if self._admission.admits_process():
            self._queue.put_record("declarations", 0, RunUpdate(seq=0, time=0, metrics=dict(metrics)))

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Wait until everything offered so far is durable or lost; return False after ``timeout`` seconds."""
        if self._admission.is_forked():
            return True
        deadline = time.monotonic() + timeout
        return self._media.flush(timeout) and self._queue.flush(max(0.0, deadline - time.monotonic()))

    def drain(self, timeout: float) -> bool:
        """Wait until all sinks have accepted everything offered so far; return False after ``timeout`` seconds."""
        if self._admission.is_forked():
            return True
        deadline = time.monotonic() + timeout
        if not self.flush(timeout):
            return False
        self._thread.supervisor.wake()
        return _wait_accepted(self.folder, self._thread.supervisor.names, self._queue.last_seq, deadline)

    def counts(self) -> Counts:
        """Return how many records of this attempt were offered, are durable and were lost, and the highest step."""
        return Counts() if self._admission.is_forked() else self._queue.tally.counts()

    def close(self, status: Status = "finished", *, reason: str = "", timeout: float | None = None) -> Receipt | None:
        """End the run: record its status, wait for the sinks, and return the receipt.

        Subsequent calls return the same receipt.

        Args:
            status: how the training ended.
            reason: why, in a few words; truncated to 1,000 characters.
            timeout: seconds to wait for the sinks, by default the setting ``drain_timeout``. Records not accepted by
                then are delivered by delivery processes, which outlive this process, or by ``telemetry sync``.

        Returns:
            The receipt; None in a forked child process.

        Raises:
            SettingError: there is no such status; the run remains open.
        """
        if self._admission.is_forked():
            return None
        if status not in get_args(Status):
            msg = f"status is {status!r}; expected {', '.join(get_args(Status))}"
            raise SettingError(msg)
        self._admission.report_missed()
        receipt = self._closer.close(status, reason, self._drain_timeout if timeout is None else timeout)
        # Only now, so that the run is still closed at exit if this call is interrupted before it takes effect.
        atexit.unregister(self._close_at_exit)
        return receipt

    def limit_drain(self, seconds: float) -> None:
        """Let ``close``, in progress or still to come, wait for the sinks only for ``seconds`` from now.

        For a process that is told to end; may be called from a signal handler.
        """
        self._closer.limit_drain(seconds)

    def _offer_media(self, name: str, step: int, content: object, encode: Callable[[Any], Encoded]) -> None:
        if self._admission.admits_process():
            self._media.offer(name, step, content, encode)

    def __enter__(self) -> MetricBus:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        status, reason = status_after(error)
        self.close(status, reason=reason)

    def _close_at_exit(self) -> None:
        status, reason = self._interpreter_exit.status()
        self.close(status, reason=reason)


def _reported(title: str, text: str, step: int, level: Level) -> Alert:
    # Not every caller passes texts: an exception, for example, is turned into one.
    # The journal thread removes credentials and then truncates the texts further.
    title, text = str(title)[:_MAX_ALERT_LENGTH], str(text)[:_MAX_ALERT_LENGTH]
    return Alert(seq=0, time=now_ms(), step=step, title=title, text=text, level=level, cause="reported")


def _copy(values: Mapping[str, float]) -> Mapping[str, float]:
    """Return a copy that does not change when the caller reuses its mapping; any other object is rejected later."""
    return dict(values) if isinstance(values, Mapping) else values


def _wait_accepted(folder: Path, sinks: Sequence[str], seq: int, deadline: float) -> bool:
    """Wait until all sinks have accepted the record ``seq``; return False at ``deadline`` (monotonic clock)."""

    def accepted(sink: str) -> int:
        progress = read_progress(folder, sink)
        return -1 if progress is None else progress.cursor.accepted

    while any(accepted(sink) < seq for sink in sinks):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_DRAIN_POLL_INTERVAL)
    return True
