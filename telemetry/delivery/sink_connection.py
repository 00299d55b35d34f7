"""The connection to a sink: call its hooks, one batch at a time, under a watchdog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from telemetry.delivery.hook_watchdog import HookWatchdog
from telemetry.errors import PluginError, SinkRejected
from telemetry.journal.reader import read_description
from telemetry.journal.segments import segments
from telemetry.plugins.hook_relay import Hooks
from telemetry.plugins.hook_results import check_durable, check_opened
from telemetry.plugins.hookspecs import Opened
from telemetry.plugins.registry import Sink
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, Blob, Closed

MAX_BATCH = 1000
"""Maximum number of records in one call of ``sink_write``."""
MAX_BATCH_BYTES = 16 * 10**6
"""Maximum size of the blobs of these records; a record with a larger one is offered alone."""
BYTES_PER_TIMEOUT = 100 * 10**6
"""Size of blobs for which a hook may take as long as ``hook_timeout``, in addition to that time."""


class WriteResult(NamedTuple):
    """The result of ``SinkConnection.write``.

    Attributes:
        records: records that need not be offered again; empty if a batch was rejected and is to be halved.
        durable: the highest sequence number that the sink reported as durable; None if it reported none.
        rejection: why the sink rejected the only record in ``records``; None if it accepted them.
    """

    records: Sequence[AnyRecord] = ()
    durable: int | None = None
    rejection: SinkRejected | None = None


class SinkConnection:
    """A sink and its current instance, if one is open. All hooks are called from the thread that calls the methods.

    Args:
        folder: the run folder.
        sink: the sink, which creates the instances.
        watchdog: watchdog that is notified when a hook is entered and left.

    Attributes:
        uploading: the record with the largest content, while the sink writes records with contents.
    """

    def __init__(self, folder: Path, sink: Sink, watchdog: HookWatchdog) -> None:
        self._folder = folder
        self._sink = sink
        self._watchdog = watchdog
        self._hooks: Hooks | None = None
        self._batch_size = MAX_BATCH
        self.uploading: AnyRecord | None = None

    @property
    def is_open(self) -> bool:
        """Whether an instance is open."""
        return self._hooks is not None

    def open(self) -> Opened:
        """Create an instance and open it; return the destination and the position that it reports.

        Raises:
            PluginError: the sink cannot be constructed, or ``sink_open`` did not return a valid ``Opened``.
            BaseException: any exception raised by ``sink_open``.
        """
        hooks = self._sink.create()
        run = read_description(self._folder)
        with self._watchdog.hook():
            result = hooks.sink_open(run=run, folder=self._folder)
        opened = self._check(result)
        self._hooks = hooks
        return opened

    def write(self, pending: Sequence[AnyRecord]) -> WriteResult:
        """Offer the first pending records to the open instance, in one call.

        A rejected batch is halved: the next call offers half as many records, until the offending record is found.
        After that, the batch size doubles again with each call, up to ``MAX_BATCH``.

        Raises:
            PluginError: ``sink_write`` returned anything but a sequence number or None.
            BaseException: any exception raised by ``sink_write``, except SinkRejected.
        """
        batch = _limited(pending[: self._batch_size])
        try:
            durable = self._write(batch)
        except SinkRejected as error:
            if len(batch) > 1:
                self._batch_size = len(batch) // 2
                return WriteResult()
            result = WriteResult(batch, rejection=error)
        else:
            result = WriteResult(batch, durable)
        self._batch_size = min(MAX_BATCH, 2 * self._batch_size)
        return result

    def close(self, closed: Closed) -> None:
        """End the backend's run.

        Raises:
            BaseException: any exception raised by ``sink_close``.
        """
        assert self._hooks is not None  # noqa: S101 - the caller has opened it
        with self._watchdog.hook():
            self._hooks.sink_close(status=closed.status, time=closed.time, reason=closed.reason)

    def drop(self) -> None:
        """Drop the instance without closing it, after a failure."""
        self._hooks = None

    def _write(self, batch: Sequence[AnyRecord]) -> int | None:
        assert self._hooks is not None  # noqa: S101 - the caller has opened it
        largest = max(batch, key=_blob_size)
        self.uploading = largest if _blob_size(largest) else None
        with self._watchdog.hook(timeouts=1 + sum(map(_blob_size, batch)) / BYTES_PER_TIMEOUT):
            # A copy, because a sink may modify the list.
            durable = self._hooks.sink_write(records=list(batch))
        return check_durable(durable, f"sink_write of {self._sink.title}")

    def _check(self, result: object) -> Opened:
        hook = f"sink_open of {self._sink.title}"
        opened = check_opened(result, hook)
        end = SEQ_PER_SEGMENT * (1 + max(segments(self._folder), default=0))
        if (opened.last_seq or 0) >= end:
            msg = f"{hook} returned last_seq={opened.last_seq}, but the journal only has records below {end}"
            raise PluginError(msg)
        return opened


def _limited(batch: Sequence[AnyRecord]) -> Sequence[AnyRecord]:
    """Return the first records of a batch: at least one, and no more than their blobs allow."""
    size = 0
    for number, record in enumerate(batch):
        size += _blob_size(record)
        if size > MAX_BATCH_BYTES:
            return batch[: max(1, number)]
    return batch


def _blob_size(record: AnyRecord) -> int:
    blob = getattr(record, "blob", None)
    return blob.size if isinstance(blob, Blob) else 0
