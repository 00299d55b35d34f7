"""Capacity and waiting times of the recording side."""

from __future__ import annotations

import msgspec

from telemetry.run_folder.heartbeat import HEARTBEAT_INTERVAL

FLUSH_TIMEOUT = 5.0
"""Seconds that ``flush``, and the end of a run, wait for the disk by default."""


class RecordingLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Capacity and waiting times (in seconds) of the recording side; no settings, only tests override them.

    Attributes:
        queue_capacity: maximum number of records waiting to be written; further records are dropped and counted.
        supervise_interval: time between two checks of the deliveries and of training that has stalled.
        delivery_start_delay: deliveries start with the first record, but no later than this after the run is opened.
        heartbeat_interval: time between two heartbeats.
        disk_backoff_initial, disk_backoff_max: shortest and longest delay before a failed write is retried.
        close_retry_delay: shortest such delay once the run is being closed.
        close_timeout: how long ``close`` waits for the journal thread, which a hung disk may block forever.
    """

    queue_capacity: int = 10_000
    supervise_interval: float = 2.0
    delivery_start_delay: float = 15.0
    heartbeat_interval: float = HEARTBEAT_INTERVAL
    disk_backoff_initial: float = 1.0
    disk_backoff_max: float = 30.0
    close_retry_delay: float = 0.1
    close_timeout: float = FLUSH_TIMEOUT


DEFAULT_LIMITS = RecordingLimits()
