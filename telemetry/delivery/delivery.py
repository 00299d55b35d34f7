"""Delivery of a run to one sink: read from the cursor on, call the hook, advance the cursor; again and again.

The same loop runs in a process beside the trainer, in a thread, and in ``telemetry sync``.
"""

from __future__ import annotations

import contextlib
import enum
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from telemetry.delivery.watchdog import Keeper
from telemetry.errors import PluginError, SinkRejected, format_error
from telemetry.journal.codec import encode
from telemetry.journal.reader import JournalReader, read_header
from telemetry.journal.segments import segments
from telemetry.plugins.hookspecs import Opened
from telemetry.plugins.registry import Hooks, Sink
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, Closed, now_ms
from telemetry.run_folder.atomic_write import private_opener, remove_temporary_files
from telemetry.run_folder.heartbeat import TrainerLivenessProbe
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.sink_progress import (
    SinkProgress,
    SinkState,
    progress_path,
    read_progress,
    sinks_folder,
    write_progress,
)
from telemetry.settings import Settings

BATCH = 1000
"""Records in one call of ``sink_write`` at most."""
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds before the first retry and, doubled each time, before any later one."""

T = TypeVar("T")


class DeliveryOutcome(enum.Enum):
    """Why a delivery ended."""

    COMPLETE = "everything was delivered and the backend's run was closed"
    CAUGHT_UP = "everything there is was delivered; the run goes on"
    HANDED_OVER = "a newer attempt of the run, or another delivery, goes on"
    REFUSED = "the sink refuses this run for good"
    GAVE_UP = "the sink took nothing for too long, or delivery was told to stop"


class Delivery:
    """Deliver the run in ``folder`` to ``sink``.

    Args:
        folder: the run folder.
        sink: the sink and its options.
        settings: ``poll``, ``linger``.
        follow: wait for further records as long as the trainer lives; without it, end when all there is now is
            delivered, or could not be within ``linger``.
        wait: sleeps for so many seconds, or less when there is reason to look again.
        stop: says that delivery is to end as soon as it can.
        on_hang: called, in another thread, when a hook has not returned within ``hook_timeout``.
        say: takes one line for people.
    """

    def __init__(
        self,
        folder: Path,
        sink: Sink,
        settings: Settings,
        *,
        follow: bool = True,
        watch: TrainerLivenessProbe | None = None,
        wait: Callable[[float], None] = time.sleep,
        stop: Callable[[], bool] = lambda: False,
        on_hang: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.lease = Lease(sinks_folder(folder), sink.name, clock=clock)
        self._keeper = Keeper(self.lease, settings.hook_timeout, on_hang)
        self._folder = folder
        self._sink = sink
        self._settings = settings
        self._follow = follow
        self._watch = watch or TrainerLivenessProbe(folder, clock=clock)
        self._wait = wait
        self._stop = stop
        self._say = say
        self._clock = clock
        self._jitter = jitter
        self._attempt = read_header(folder).attempt
        self._newest = 0
        self._progress = SinkProgress()
        self._keeps_progress = True
        self._hooks: Hooks | None = None
        self._reader: JournalReader | None = None
        self._waiting: list[AnyRecord] = []
        self._chunk = BATCH
        self._closed: Closed | None = None
        self._time: int | None = None
        self._failures = 0
        self._failed_at = 0
        self._failing_since: float | None = None

    def run(self) -> DeliveryOutcome:
        """Deliver until there is a reason to end. The lease must be held, and is released."""
        # Only now: until the lease was taken, another holder moved the cursor.
        self._progress = read_progress(self._folder, self._sink.name) or SinkProgress()
        with contextlib.suppress(OSError):  # what one who was killed has left is in nobody's way
            remove_temporary_files(progress_path(self._folder, self._sink.name))
        try:
            with self._keeper:
                while (end := self._turn()) is None:
                    pass
        finally:
            # After the keeper's end, so that no renewal can follow.
            self.lease.release()
        return end

    def _turn(self) -> DeliveryOutcome | None:
        """Do what there is to do, and give why delivery ends here if it does."""
        try:
            if not self.lease.is_held() or self._is_overtaken():
                return DeliveryOutcome.HANDED_OVER
            return DeliveryOutcome.GAVE_UP if self._stop() else self._work()
        except SinkRejected as error:
            return self._refused(error)
        except BaseException as error:  # noqa: BLE001 - a sink may raise anything, and none of it may end delivery
            return self._failed(error)

    def _work(self) -> DeliveryOutcome | None:
        if self._deliver():
            return None
        closed = self._ended()
        if closed is not None:
            self._close(closed)
            return DeliveryOutcome.COMPLETE
        if self._waiting:
            return None
        self._recovered()
        if not self._follow and self._watch.is_alive():
            return DeliveryOutcome.CAUGHT_UP
        self._wait(self._settings.poll)
        return None

    def _deliver(self) -> bool:
        """Deliver one batch; say whether there may be more."""
        if self._hooks is None:
            self._open()
        if not self._waiting:
            self._read()
        if not self._waiting:
            return False
        batch = self._waiting[: self._chunk]
        # Taken off only afterwards: a batch that fails is offered again as it is.
        try:
            durable = self._write(batch)
        except SinkRejected as error:
            if len(batch) > 1:
                # The one that it will not take is found by halving.
                self._chunk = len(batch) // 2
                return True
            self._set_aside(batch[0], error)
            durable = None
        cursor = self._progress.cursor
        cursor.accepted = max(cursor.accepted, batch[-1].seq)
        cursor.durable = max(cursor.durable, min(durable or 0, cursor.accepted))
        cursor.closed = None
        del self._waiting[: len(batch)]
        self._chunk = min(BATCH, self._chunk * 2)
        self._save("delivering")
        # What is offered again after a failure, and taken again, is no sign that the failure has passed.
        if cursor.accepted > self._failed_at:
            self._recovered()
        return True

    def _read(self) -> None:
        assert self._reader is not None  # noqa: S101 - _open makes it
        for record in self._reader.read(BATCH, live=self._watch.is_alive() is not False):
            self._time = record.time
            if isinstance(record, Closed):
                self._closed = record
            else:
                # An earlier attempt's end is none when a later attempt follows it.
                self._closed = None
                self._waiting.append(record)

    def _open(self) -> None:
        self._progress.reopening = True
        self._save("opening" if not self._failures else "retrying")
        hooks = self._sink.create()
        run = read_header(self._folder)
        opened = self._call(lambda: hooks.sink_open(run=run, folder=self._folder))
        if not isinstance(opened, Opened):
            msg = f"sink_open of {self._sink.title} returned {opened!r}; it returns telemetry.Opened"
            raise PluginError(msg)
        progress = self._progress
        progress.destination, progress.view = opened.destination, opened.view
        progress.reopening = False
        cursor = progress.cursor
        if opened.last_seq is not None:
            # What is there counts for more than what was said to be there: a power cut takes back both ways.
            cursor.durable = opened.last_seq
        cursor.accepted = cursor.durable
        self._reader = JournalReader(self._folder, after=cursor.durable, clock=self._clock)
        self._waiting, self._closed = [], None
        self._hooks = hooks
        self._save("delivering")

    def _write(self, records: list[AnyRecord]) -> int | None:
        hooks = self._hooks
        assert hooks is not None  # noqa: S101 - _deliver opens it
        return self._call(lambda: hooks.sink_write(records=records))

    def _set_aside(self, record: AnyRecord, error: SinkRejected) -> None:
        cursor = self._progress.cursor
        if record.seq <= cursor.last_rejected:
            return  # it has been offered again after a restart, and stands in the file already
        path = self._folder / "sinks" / f"{self._sink.name}.rejected.jsonl"
        with open(path, "ab", opener=private_opener) as file:
            file.write(encode(record))
        cursor.rejected += 1
        cursor.last_rejected = record.seq
        self._note(error)
        self._say(f"{self._sink.title} rejects record {record.seq} ({error}); it is set aside in {path}")

    def _ended(self) -> Closed | None:
        """Give how the training ended, None if it goes on or nobody can tell yet."""
        if self._closed is not None:
            return self._closed
        if self._watch.is_alive() is not False:
            return None
        # What came between the last look at the journal and the trainer's end is found by one more.
        self._read()
        if self._closed is not None:
            return self._closed
        if self._waiting:
            return None
        return Closed(seq=0, time=self._last_time(), status="killed", reason="the trainer ended without a word")

    def _last_time(self) -> int:
        """Give the time of the last record, which a process that came later may not have read."""
        if self._time is None:
            reader = JournalReader(self._folder, superseded=True)
            self._time = read_header(self._folder).time
            while batch := reader.read(BATCH, live=False):
                self._time = batch[-1].time
        return self._time

    def _close(self, closed: Closed) -> None:
        hooks = self._hooks
        assert hooks is not None  # noqa: S101 - _deliver opens it
        self._call(lambda: hooks.sink_close(status=closed.status, time=closed.time, reason=closed.reason))
        cursor = self._progress.cursor
        cursor.closed = closed.status
        # A sink that has closed its run without complaint holds what it took.
        cursor.durable = max(cursor.durable, cursor.accepted)
        self._save("closed")

    def _is_overtaken(self) -> bool:
        newest = max(segments(self._folder), default=0)
        if newest == self._newest:
            return False
        header = read_header(self._folder)
        # A segment that has no head yet is looked at again.
        self._newest = header.seq // SEQ_PER_SEGMENT
        return header.attempt > self._attempt

    def _recovered(self) -> None:
        if self._failures:
            self._say(f"{self._sink.name} takes records again")
        self._failures, self._failing_since = 0, None

    def _refused(self, error: SinkRejected) -> DeliveryOutcome:
        self._note(error)
        self._save("refused")
        self._say(f"{self._sink.title} refuses this run: {error}; the journal keeps it for `telemetry sync`")
        return DeliveryOutcome.REFUSED

    def _failed(self, error: BaseException) -> DeliveryOutcome | None:
        self._hooks = None
        self._failures += 1
        cursor = self._progress.cursor
        self._failed_at = max(self._failed_at, cursor.accepted)
        # What a client took and nobody can vouch for may be lost with it; the next opening finds out.
        cursor.accepted = cursor.durable
        self._progress.retries += 1
        self._note(error)
        self._save("retrying")
        if self._failures == 1:
            self._say(f"{self._sink.title} cannot take records now ({format_error(error)}); it will be tried again")
        patience = self._patience()
        if patience <= 0 or self._stop():
            return DeliveryOutcome.GAVE_UP
        delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(self._failures - 1, 30))
        self._wait(min(delay * (0.5 + 0.5 * self._jitter()), patience))
        return None

    def _patience(self) -> float:
        """Give for how many more seconds a failing sink is tried."""
        if self._follow and self._closed is None and self._watch.is_alive() is not False:
            # A backend that is down may stay so while the trainer lives: that costs nothing. Alone, delivery must end.
            return math.inf
        if self._failing_since is None:
            self._failing_since = self._clock()
        return self._failing_since + self._settings.linger - self._clock()

    def _call(self, hook: Callable[[], T]) -> T:
        with self._keeper.hook():
            return hook()

    def _note(self, error: BaseException) -> None:
        # With the package, as it may be a stranger's that is at fault.
        self._progress.last_error = f"{self._sink.title}: {format_error(error)}"[:1000]
        self._progress.last_error_time = now_ms()

    def _save(self, state: SinkState | None = None) -> None:
        self._progress.state = state or self._progress.state
        self._progress.updated = now_ms()
        try:
            write_progress(self._folder, self._sink.name, self._progress)
        except OSError as error:
            # Without it a restart asks the backend; if that cannot tell either, records come twice, which is said.
            if self._keeps_progress:
                self._say(f"{self._sink.name}: its progress cannot be written: {error}")
            self._keeps_progress = False
        else:
            self._keeps_progress = True
