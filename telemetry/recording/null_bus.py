"""A bus that publishes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from telemetry.alerts.detector import Divergence
from telemetry.cadence import EVENTS, Cadence
from telemetry.metrics import Metric
from telemetry.recording.limits import FLUSH_TIMEOUT
from telemetry.recording.media_content import Encoded
from telemetry.recording.media_methods import MediaMethods
from telemetry.recording.record_queue import StreamValuesSource, ValuesSource
from telemetry.records import Alert, Level, Status
from telemetry.run_folder.heartbeat import Counts


class NullBus(MediaMethods):
    """Answer ``due`` like a ``MetricBus`` with the same cadence, and discard everything; for all ranks but the first.

    Args:
        every: interval between points of the periodic streams, in iterations.
        events: streams that are always due.
    """

    def __init__(self, every: int = 200, events: Sequence[str] = EVENTS) -> None:
        self.cadence = Cadence(every, events)
        self.due = self.cadence.due
        self.alerts: tuple[Alert, ...] = ()
        self.diverged: Divergence | None = None
        self.last_healthy_step = 0

    def publish(self, stream: str, step: int, values: ValuesSource, *, final: bool = False) -> None:
        """Do nothing."""

    def publish_group(
        self, streams: Sequence[str], step: int, values: StreamValuesSource, *, final: bool = False
    ) -> None:
        """Do nothing."""

    def alert(self, title: str, text: str = "", *, step: int, level: Level = "warning") -> None:
        """Do nothing."""

    def params(self, params: object) -> None:
        """Do nothing."""

    def declare(self, metrics: Mapping[str, Metric]) -> None:
        """Do nothing."""

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:  # noqa: ARG002 - the signature of MetricBus
        """Return True."""
        return True

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - the signature of MetricBus
        """Return True."""
        return True

    def counts(self) -> Counts:
        """Return zero counts."""
        return Counts()

    def close(self, status: Status = "finished", *, reason: str = "", timeout: float | None = None) -> None:
        """Do nothing; there is no receipt."""

    def limit_drain(self, seconds: float) -> None:
        """Do nothing."""

    def _offer_media(self, name: str, step: int, content: object, encode: Callable[[Any], Encoded]) -> None:
        """Do nothing."""

    def __enter__(self) -> NullBus:
        """Return the bus."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""
