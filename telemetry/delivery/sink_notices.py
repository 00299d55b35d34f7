"""Lines for people about sinks that cannot be reached, have recovered, or reject records: one for each change."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from telemetry.backoff import Backoff
from telemetry.printable import shorten
from telemetry.records import SEQ_PER_SEGMENT
from telemetry.run_folder.paths import log_path, near, rejected_path
from telemetry.run_folder.sink_progress import SinkProgress, read_progress

OUTAGE_DELAY = 5.0
"""Seconds for which a sink must fail before an outage is reported: most failures are over at the first retry."""
RECOVERY_DELAY_INITIAL, RECOVERY_DELAY_MAX = 10.0, 600.0
"""Seconds for which a sink must work before its recovery is reported, at first and at most; doubled after each report,
so that a server that comes and goes causes few lines."""
MAX_REASON_LENGTH = 160
"""Maximum number of characters of a reason, about two lines of a terminal."""

_CAUSES = {
    "connection refused": r"connection refused|ECONNREFUSED",
    "no answer in time": r"timed? ?out|deadline exceeded",
    "unknown host": r"name or service not known|name resolution|getaddrinfo|no such host",
    "no route to the network": r"network is unreachable|no route to host",
    "connection lost": r"connection reset|connection aborted|remote end closed|broken pipe|server disconnected",
}
_CAUSE = re.compile("|".join(f"({pattern})" for pattern in _CAUSES.values()), re.IGNORECASE)
_STATUS = re.compile(
    r"(?:too many|error code|status(?: code)?) (5\d\d|429)\b|\b(5\d\d|429) (?:server|client) error", re.IGNORECASE
)
"""An answer of a server that is overloaded or out of order."""
_MESSAGE = re.compile(r"(\S+ of [^:]+: )?(?:Sink(?:Unavailable|Rejected): )?(.*)", re.DOTALL)
"""A message: the sink with the package and version, the class of its error, which tells nothing, and the cause."""
_ADDRESS = re.compile(r"(https?://[^\s/'\"()<>,;]+)|host='([^']+)', port=(\d+)")


class Notice(NamedTuple):
    """A line about a sink, and its level: a warning, or information."""

    level: int
    text: str


class SinkNotices:
    """Changes in the deliveries of a run, found in their progress files; any process may look for them.

    Call ``poll`` every few seconds.

    Args:
        folder: the run folder.
        names: names of the sinks.
        outage_delay: how long a sink must fail before an outage is reported, in seconds.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        outage_delay: float = OUTAGE_DELAY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watches = [_SinkWatch(folder, name, outage_delay, clock) for name in names]

    def poll(self, *, last: bool = False) -> list[Notice]:
        """Return what has changed; ``last``: the deliveries have ended, so there is nothing to wait for."""
        return [notice for watch in self._watches for notice in watch.poll(last=last)]


class _SinkWatch:
    def __init__(self, folder: Path, name: str, outage_delay: float, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._name = name
        self._outage_delay = outage_delay
        self._clock = clock
        self._changed_at = clock()
        self._is_failing = False
        self._reported_outage = False
        self._accepted_before = 0
        self._recovery_delays = Backoff(RECOVERY_DELAY_INITIAL, RECOVERY_DELAY_MAX)
        self._recovery_delay = self._recovery_delays.next_delay()
        progress = read_progress(folder, name) or SinkProgress()
        # What an earlier attempt or command has reported.
        self._rejected = {key: cursor.rejected for key, cursor in progress.cursors.items()}
        self._reported_end = False
        self._started_with = progress.updated

    def poll(self, *, last: bool) -> Iterator[Notice]:
        progress = read_progress(self._folder, self._name)
        # The state of an earlier delivery says nothing about this one.
        if progress is not None and progress.updated != self._started_with:
            self._note_state(progress)
            yield from self._outage(progress, last=last)
            yield from self._rejections(progress)

    def _note_state(self, progress: SinkProgress) -> None:
        # Records sent again after a failure, up to where delivery was before, do not prove that the sink has recovered.
        is_behind = self._is_failing and progress.cursor.accepted <= self._accepted_before
        is_failing = progress.state == "retrying" or (is_behind and progress.state in {"opening", "delivering"})
        if is_failing != self._is_failing:
            self._is_failing, self._changed_at = is_failing, self._clock()
            if is_failing and not self._reported_outage:
                self._accepted_before = progress.cursor.accepted

    def _outage(self, progress: SinkProgress, *, last: bool) -> Iterator[Notice]:
        """Yield the line about the beginning or the end of an outage."""
        lasted = self._clock() - self._changed_at
        if self._is_failing and not self._reported_outage and (last or lasted >= self._outage_delay):
            self._reported_outage = True
            why = reason(progress.last_error, log_path(self._folder, self._name))
            kept = "retrying, records stay in the journal"
            yield Notice(logging.WARNING, f"{self._name}: cannot be reached ({why}); {kept}")
        is_steady = last or progress.state == "closed" or lasted >= self._recovery_delay
        if self._reported_outage and not self._is_failing and progress.state != "refused" and is_steady:
            self._reported_outage = False
            self._recovery_delay = self._recovery_delays.next_delay()
            yield Notice(logging.INFO, f"{self._name}: reached again{self._delivered(progress)}")

    def _delivered(self, progress: SinkProgress) -> str:
        """Return the number of records delivered since the outage, which numbers in one segment tell."""
        before, now = self._accepted_before, progress.cursor.accepted
        if before // SEQ_PER_SEGMENT != now // SEQ_PER_SEGMENT:
            return ""
        number = now - before
        return f"; {number} record{'' if number == 1 else 's'} delivered"

    def _rejections(self, progress: SinkProgress) -> Iterator[Notice]:
        """Yield a line about the first rejected record at each destination, and one about the end of the delivery."""
        log = log_path(self._folder, self._name)
        cursor = progress.cursor
        if cursor.rejected and not self._rejected.get(progress.destination):
            why, place = reason(progress.last_error, log), near(rejected_path(self._folder, self._name))
            text = f"{self._name}: has rejected a record ({why}); rejected records are kept in {place}"
            yield Notice(logging.WARNING, text)
        self._rejected[progress.destination] = cursor.rejected
        if progress.state == "refused" and not self._reported_end:
            self._reported_end = True
            why = reason(progress.last_error, log)
            text = f"{self._name}: has rejected this run ({why}); its records stay in the journal for `telemetry sync`"
            yield Notice(logging.WARNING, text)


def reason(message: str, log: Path, *, address: bool = True, package: bool = False) -> str:
    """Return the cause of a failure in a few words; a long message ends with a reference to the log.

    Args:
        message: the error message of a sink, which may quote a server.
        log: the log of the sink, which contains the whole message.
        address: whether to add the address that did not answer.
        package: whether to begin with the package of the sink and its version, unless the cause is well known.
    """
    host = _ADDRESS.search(message) if address else None
    if cause := _find_cause(message):
        where = "" if host is None else f" at {host[1] or f'{host[2]}:{host[3]}'}"
        return f"{cause}{where}"
    parts = _MESSAGE.fullmatch(message)
    sink, text = parts.groups(default="") if parts else ("", message)
    return brief(f"{sink if package else ''}{text.removeprefix(f'{log.stem}: ')}", log) or "no reason given"


def _find_cause(message: str) -> str:
    """Return a well-known cause that the message contains, or an empty string."""
    if (cause := _CAUSE.search(message)) and cause.lastindex:
        return list(_CAUSES)[cause.lastindex - 1]
    status = _STATUS.search(message)
    return f"server error {status[1] or status[2]}" if status else ""


def brief(message: str, log: Path) -> str:
    """Return an error message of up to two lines of a terminal; a reference to the log replaces the rest."""
    if len(message) <= MAX_REASON_LENGTH:
        return message
    return f"{shorten(message, MAX_REASON_LENGTH)} see {near(log)}"
