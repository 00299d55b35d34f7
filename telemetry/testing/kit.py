"""What an author gives to the contract, and what all of its checks use."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from telemetry.delivery.sink_connection import MAX_BATCH
from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.plugins.hookspecs import Opened
from telemetry.plugins.registry import Hooks, Sink
from telemetry.records import Record, RunRecord, Status
from telemetry.testing.child import Child
from telemetry.testing.points import STARTED, Point, begins_with, difference, points_of, run_record

EXPECTED_ERRORS = (SinkUnavailable, SinkRejected)


class Driver:
    """One instance of a sink, opened, and then called as delivery does.

    Attributes:
        opened: what ``sink_open`` said.
        durable: the highest number that ``sink_write`` has said to be durable so far.
    """

    def __init__(self, sink: object, run: RunRecord, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._hooks: Hooks = Sink(type(sink).__name__, {}, None, sink).create()
        self.opened = self._hooks.sink_open(run=run, folder=folder)
        assert isinstance(self.opened, Opened), f"sink_open returned {self.opened!r}; return telemetry.Opened(…)"
        self.durable = self.opened.last_seq or 0

    def write(self, records: Sequence[Record]) -> int | None:
        """Write records in batches of delivery's size; give what the last call returned."""
        durable = None
        for first in range(0, len(records), MAX_BATCH):
            durable = self._hooks.sink_write(records=records[first : first + MAX_BATCH])
            self.durable = max(self.durable, durable or 0)
        return durable

    def write_rest(self, records: Sequence[Record]) -> int | None:
        """Write those that follow what ``sink_open`` said to be there."""
        return self.write([record for record in records if record.seq > (self.opened.last_seq or 0)])

    def close(self, status: Status = "finished", reason: str = "") -> None:
        """End the backend's run."""
        self._hooks.sink_close(status=status, time=STARTED + 10**8, reason=reason)


class Kit:
    """A sink under test.

    The attributes say what the backend can do. The defaults are the strict answers; state a weaker one where it is
    the backend that cannot do better, and say so in the sink's documentation.

    Attributes:
        tells_last_seq: ``sink_open`` finds the highest sequence number that is there (never None).
        durable_on_write: what ``sink_write`` has taken outlives a kill, and it says so.
        exactly_once: what is offered again after a kill is shown once.
        shows_units: ``read_back`` gives each metric's unit as the backend shows it.
        rewinds: what is shown after a resume from an earlier iteration: "replaced", one curve; "kept", also what was
            superseded.
        light_imports: top-level modules of others that the sink's module may import at once.
        timeout: seconds for each process that the kit starts.
    """

    tells_last_seq: bool = True
    durable_on_write: bool = True
    exactly_once: bool = True
    shows_units: bool = True
    rewinds: Literal["replaced", "kept"] = "replaced"
    light_imports: tuple[str, ...] = ()
    timeout: float = 120.0

    def make_sink(self, folder: Path) -> object:
        """Give a new instance for the run in ``folder``, constructed as delivery would.

        It is called in other processes too, where pytest's fixtures are not there: what it needs of them travels in
        ``os.environ``.
        """
        msg = f"{type(self).__name__} has no make_sink(folder); let it return a new instance of your sink"
        raise NotImplementedError(msg)

    def read_back(self, folder: Path) -> Iterable[Point]:
        """Give all points that the backend shows for the run in ``folder``, those of a metric in its order."""
        msg = f"{type(self).__name__} has no read_back(folder); let it return a Point for each point that is shown"
        raise NotImplementedError(msg)

    def make_elsewhere(self, folder: Path) -> object | None:  # noqa: ARG002 - for those who override it
        """Give a sink that writes the run in ``folder`` to another destination.

        None: the destination follows the run folder, so that ``make_sink`` of another folder gives one.
        """
        return None

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:  # noqa: ARG002 - likewise
        """Give contexts in which the backend of the run in ``folder`` is down, each in another way."""
        return ()

    def round_value(self, value: float) -> float:
        """Give what the backend makes of a value, as when it keeps 32 bits of it."""
        return value

    def shown_name(self, name: str) -> str:
        """Give the name under which the backend shows a metric."""
        return name

    def open_sink(self, folder: Path, *, attempt: int = 1, sink: object | None = None) -> Driver:
        """Open a new instance, or the one given, on the run in ``folder``."""
        run = run_record(folder.name, attempt=attempt)
        return Driver(self.make_sink(folder) if sink is None else sink, run, folder)

    def deliver(self, folder: Path, records: Sequence[Record], *, attempt: int = 1) -> Driver:
        """Write with a new instance what it does not hold yet, and close it."""
        driver = self.open_sink(folder, attempt=attempt)
        driver.write_rest(records)
        driver.close()
        return driver

    def expected(self, records: Iterable[Record]) -> list[Point]:
        """Give the points that the backend should show."""
        return [
            Point(
                self.shown_name(point.name),
                point.step,
                self.round_value(point.value),
                point.time,
                point.unit if self.shows_units else "1",
            )
            for point in points_of(records)
        ]

    def shown(self, folder: Path) -> list[Point]:
        """Give the points that the backend shows."""
        points = [Point(*point) for point in self.read_back(folder)]
        if not self.shows_units:
            points = [point._replace(unit="1") for point in points]
        # By their text, as NaN is not equal to itself.
        return points if self.exactly_once else list({str(point): point for point in points}.values())

    def check_shows(self, folder: Path, records: Iterable[Record], cure: str) -> None:
        """Fail with what is wrong, and the cure, if other points are shown than those of the records."""
        wrong = difference(self.shown(folder), self.expected(records))
        assert not wrong, f"{wrong}. {cure}"

    def check_claim(self, folder: Path, records: Sequence[Record], claim: int, claimed_by: str) -> None:
        """Fail if what was claimed to be there, up to a sequence number, is not shown."""
        last = records[-1].seq
        assert claim <= last, f"{claimed_by} {claim}, but only records up to {last} have been written"
        wrong = begins_with(self.shown(folder), self.expected(r for r in records if r.seq <= claim))
        assert not wrong, f"{claimed_by} {claim}, but after a kill {wrong}. Claim what has reached the backend only."

    def child(self, method: str, *args: Any) -> Child:
        """Call a method of this class in a process of its own."""
        return Child(type(self), method, *map(str, args), timeout=self.timeout)


def drop(drivers: list[Driver]) -> None:
    """Forget instances without closing them, as delivery does after a failure."""
    with warnings.catch_warnings():
        # They may hold open files.
        warnings.simplefilter("ignore", ResourceWarning)
        drivers.clear()
        gc.collect()
