"""Deliver a run to one sink: read the records after the cursor, call the sink, advance the cursor, repeat.

The same loop runs in a delivery process, in a thread of the trainer, and in ``telemetry sync``.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from pathlib import Path

from telemetry.backoff import Backoff
from telemetry.delivery.cursor import DeliveryCursor
from telemetry.delivery.hook_watchdog import HookWatchdog
from telemetry.delivery.journal_tail import JournalTail
from telemetry.delivery.lease_renewer import LeaseRenewer
from telemetry.delivery.retries import Retries
from telemetry.delivery.sink_connection import SinkConnection
from telemetry.errors import SinkRejected, error_text, format_error
from telemetry.plugins.registry import Sink
from telemetry.records import AnyRecord
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.paths import sinks_folder
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe
from telemetry.settings import Settings

MAX_HANGS = 3
"""How often in succession a content may take too long before its record is set aside."""


class DeliveryOutcome(enum.Enum):
    """Why a delivery ended."""

    COMPLETE = "all records were delivered and the backend's run was closed"
    CAUGHT_UP = "all records so far have been delivered; the run continues"
    HANDED_OVER = "a newer attempt of the run, or another delivery, has taken over"
    REJECTED = "the sink rejected this run"
    GAVE_UP = "the sink was unavailable for too long, or delivery was stopped"


class Delivery:
    """Deliver the run in ``folder`` to ``sink``. Acquire ``lease``, then call ``run``.

    Args:
        folder: the run folder.
        sink: the sink and its options.
        settings: telemetry settings; only ``poll``, ``linger`` and ``hook_timeout`` are used.
        follow: whether to wait for further records while the trainer is alive; otherwise delivery ends when all
            current records are delivered or ``linger`` expires.
        liveness: probe that checks whether the trainer is alive.
        wait: function that sleeps for up to the given number of seconds; may return early when woken.
        stop: function that returns whether delivery should end as soon as possible.
        on_hang: function called in another thread when a hook has not returned within ``hook_timeout``.
        log: function called with one human-readable line for the log of the sink.
        warn: function called with a line about a problem that the progress file cannot show; by default ``log``.
        clock: monotonic clock in seconds.
        jitter: function that returns a random number from 0 to 1; shortens each retry delay by up to half.
        backoff: delays between retries, before shortening.

    Raises:
        RunNotFound: the folder contains no journal.
    """

    def __init__(
        self,
        folder: Path,
        sink: Sink,
        settings: Settings,
        *,
        follow: bool = True,
        liveness: TrainerLivenessProbe | None = None,
        wait: Callable[[float], None] = time.sleep,
        stop: Callable[[], bool] = lambda: False,
        on_hang: Callable[[], None] = lambda: None,
        log: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
    ) -> None:
        self.lease = Lease(sinks_folder(folder), sink.name, clock=clock)
        self._liveness = liveness or TrainerLivenessProbe(folder, clock=clock)
        self._journal = JournalTail(folder, self._liveness, clock)
        self._on_hang = on_hang
        self._watchdog = HookWatchdog(settings.hook_timeout, self._note_hang)
        self._connection = SinkConnection(folder, sink, self._watchdog)
        self._log: Callable[[str], None] = lambda line: log(sink.redact(line))
        self._cursor = DeliveryCursor(folder, sink, self._log, warn or self._log)
        self._sink = sink
        self._settings = settings
        self._follow = follow
        self._wait = wait
        self._stop = stop
        self._retries = Retries(settings.linger, clock=clock, jitter=jitter, backoff=backoff)
        self._accepted_before_failure = 0

    def run(self) -> DeliveryOutcome:
        """Deliver until there is a reason to end. The caller must hold the lease; it is released at the end."""
        self._cursor.load()
        try:
            with self._watchdog, LeaseRenewer(self.lease):
                while (outcome := self._step()) is None:
                    pass
        finally:
            # Only now has the renewer stopped, so no renewal can undo the release.
            self.lease.release()
        return outcome

    def _step(self) -> DeliveryOutcome | None:
        """Call at most one hook, or wait; return the outcome if delivery ends here."""
        try:
            if not self.lease.is_held() or self._journal.has_newer_attempt():
                return DeliveryOutcome.HANDED_OVER
            return DeliveryOutcome.GAVE_UP if self._stop() else self._deliver_or_finish()
        except SinkRejected as error:
            return self._end_rejected(error)
        except BaseException as error:  # noqa: BLE001 - a sink may raise anything; no exception may crash the loop
            return self._retry_later(error)

    def _deliver_or_finish(self) -> DeliveryOutcome | None:
        if not self._connection.is_open:
            self._open()
        self._journal.fill()
        if self._journal.pending:
            self._write()
            return None
        closed = self._journal.end()
        if closed is not None:
            self._connection.close(closed)
            self._cursor.close(closed.status)
            return DeliveryOutcome.COMPLETE
        return None if self._journal.pending else self._wait_for_records()

    def _open(self) -> None:
        self._cursor.start_opening("retrying" if self._retries.is_failing else "opening")
        opened = self._connection.open()
        self._journal.start_after(self._cursor.move_to(opened))

    def _write(self) -> None:
        batch = self._without_hanging(self._journal.pending)
        if not batch:
            return
        result = self._connection.write(batch)
        if not result.records:
            return
        last = result.records[-1]
        if result.rejection is not None:
            self._cursor.set_aside(last, result.rejection)
        self._cursor.advance(last.seq, result.durable)
        # Removed only now: a batch that failed is offered again unchanged.
        del self._journal.pending[: len(result.records)]
        # Resending records that were accepted before the failure does not prove that the sink has recovered.
        if self._cursor.accepted > self._accepted_before_failure:
            self._note_recovery()

    def _without_hanging(self, pending: list[AnyRecord]) -> list[AnyRecord]:
        """Return the records to offer now: one whose content has taken too long before is offered alone.

        After ``MAX_HANGS``, it is set aside. Otherwise it would hold up all records after it forever.
        """
        found = next((n for n, record in enumerate(pending) if self._cursor.hangs_at(record.seq)), None)
        if found is None:
            return pending
        if found:
            return pending[:found]
        first = pending[0]
        if self._cursor.hangs_at(first.seq) < MAX_HANGS:
            return [first]
        msg = f"its content was not stored in the time allowed, {MAX_HANGS} times; raise telemetry.hook_timeout"
        self._cursor.set_aside(first, SinkRejected(msg))
        self._cursor.advance(first.seq, None)
        del pending[0]
        return []

    def _note_hang(self) -> None:
        # In the thread of the watchdog, while the thread of the delivery is stuck in the hook.
        if self._connection.uploading is not None:
            self._cursor.note_hang(self._connection.uploading.seq)
        self._on_hang()

    def _wait_for_records(self) -> DeliveryOutcome | None:
        self._note_recovery()
        if not self._follow and self._liveness.is_alive():
            return DeliveryOutcome.CAUGHT_UP
        self._wait(self._settings.poll)
        return None

    def _end_rejected(self, error: SinkRejected) -> DeliveryOutcome:
        self._cursor.reject(error)
        reason = error_text(error) or "no reason given"
        self._log(
            f"{self._sink.title} rejected this run: {reason}. Its records stay in the journal; "
            "fix the cause and run `telemetry sync`."
        )
        return DeliveryOutcome.REJECTED

    def _retry_later(self, error: BaseException) -> DeliveryOutcome | None:
        """Drop the sink instance, wait, and reopen on the next step; return GAVE_UP if it is too late for that."""
        self._connection.drop()
        self._accepted_before_failure = max(self._accepted_before_failure, self._cursor.accepted)
        self._cursor.fail(error)
        if not self._retries.is_failing:
            self._log(f"delivery to {self._sink.title} failed ({format_error(error)}); retrying")
        delay = self._retries.next_delay(limited=not self._may_retry_forever())
        if delay is None or self._stop():
            return DeliveryOutcome.GAVE_UP
        self._wait(delay)
        return None

    def _may_retry_forever(self) -> bool:
        # While the trainer is alive, an unreachable backend costs nothing; afterwards, delivery must end.
        return self._follow and self._journal.closed is None and self._liveness.is_alive() is not False

    def _note_recovery(self) -> None:
        if self._retries.is_failing:
            self._log(f"delivery to {self._sink.title} works again")
        self._retries.reset()
