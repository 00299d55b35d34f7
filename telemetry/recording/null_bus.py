"""The bus of those who publish nothing."""

from __future__ import annotations

from collections.abc import Sequence

from telemetry.alerts.detector import Divergence
from telemetry.cadence import EVENTS, Cadence
from telemetry.recording.bus import FLUSH_TIMEOUT, Group, Values
from telemetry.records import Alert, Level, Status
from telemetry.run_folder.heartbeat import Counts


class NullBus:
    """A bus that answers ``due`` like the real one and takes nothing: for all ranks but the first."""

    def __init__(self, every: int = 200, events: Sequence[str] = EVENTS) -> None:
        self.cadence = Cadence(every, events)
        self.due = self.cadence.due
        self.alerts: tuple[Alert, ...] = ()
        self.diverged: Divergence | None = None
        self.last_healthy_step = 0

    def publish(self, stream: str, step: int, values: Values, *, final: bool = False) -> None:
        """Take nothing."""

    def publish_group(self, streams: Sequence[str], step: int, values: Group, *, final: bool = False) -> None:
        """Take nothing."""

    def alert(self, title: str, text: str = "", *, step: int, level: Level = "warning") -> None:
        """Take nothing."""

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:  # noqa: ARG002 - as the real one
        """Have nothing to wait for."""
        return True

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - as the real one
        """Have nothing to wait for."""
        return True

    def counts(self) -> Counts:
        """Say that nothing was offered."""
        return Counts()

    def close(self, status: Status = "finished", *, reason: str = "", timeout: float | None = None) -> None:
        """Have nothing to close."""

    def __enter__(self) -> NullBus:
        """Give the bus."""
        return self

    def __exit__(self, *_: object) -> None:
        """Have nothing to close."""
