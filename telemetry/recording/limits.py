"""Capacity and waiting times of the recording side."""

from __future__ import annotations

import msgspec

from telemetry.delivery.sink_notices import OUTAGE_DELAY
from telemetry.run_folder.heartbeat import HEARTBEAT_INTERVAL

FLUSH_TIMEOUT = 5.0
"""How long ``flush`` and ``close`` wait for the disk by default, in seconds."""


class RecordingLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Capacity and waiting times (in seconds) of the recording side. Not settings: only tests override them.

    Attributes:
        queue_capacity: maximum number of records waiting to be written; further records are dropped and counted.
        supervise_interval: interval between checks for deliveries that have died and for stalled training.
        delivery_start_delay: maximum time from the opening of the run to the start of the deliveries; the first record
            starts them earlier.
        outage_delay: how long a sink must fail before an outage is reported.
        heartbeat_interval: interval between heartbeats.
        disk_backoff_initial, disk_backoff_max: initial and maximum delays before a failed write is retried.
        close_retry_delay: initial delay before a retry once the run is being closed.
        media_capacity: maximum number of media (texts, images …) waiting to be written.
        media_bytes: maximum size of their contents in memory, in bytes; a single larger one is accepted.
        media_timeout: how long ``close`` waits until they are written.
        close_timeout: how long ``close`` waits for the journal thread, which a hung disk may block forever.
    """

    queue_capacity: int = 10_000
    supervise_interval: float = 2.0
    delivery_start_delay: float = 15.0
    outage_delay: float = OUTAGE_DELAY
    heartbeat_interval: float = HEARTBEAT_INTERVAL
    disk_backoff_initial: float = 1.0
    disk_backoff_max: float = 30.0
    close_retry_delay: float = 0.1
    media_capacity: int = 1000
    media_bytes: int = 256 << 20
    media_timeout: float = 60.0
    close_timeout: float = FLUSH_TIMEOUT


DEFAULT_LIMITS = RecordingLimits()
