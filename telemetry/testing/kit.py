"""Hooks that a sink author overrides, and helpers shared by the checks."""

from __future__ import annotations

import gc
import inspect
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

from telemetry.delivery.sink_connection import MAX_BATCH
from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.plugins.hook_relay import Hooks
from telemetry.plugins.hook_results import check_durable, check_opened
from telemetry.plugins.registry import Sink
from telemetry.records import Record, RunRecord, Status
from telemetry.testing.child import Child
from telemetry.testing.media import MediaItem
from telemetry.testing.points import STARTED, Point, difference, points_of, prefix_difference, run_record

EXPECTED_ERRORS = (SinkUnavailable, SinkRejected)
_T = TypeVar("_T")


class Driver:
    """An open instance of a sink, called as delivery would call it.

    Attributes:
        opened: the result of ``sink_open``.
        durable: the highest sequence number reported as durable so far.
    """

    def __init__(self, sink: object, run: RunRecord, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._hooks: Hooks = Sink(type(sink).__name__, {}, None, sink).create()
        self.opened = check_opened(self._hooks.sink_open(run=run, folder=folder))
        self.durable = self.opened.last_seq or 0

    def write(self, records: Sequence[Record]) -> int | None:
        """Write records in batches as large as those of delivery; return the result of the last call."""
        durable = None
        for first in range(0, len(records), MAX_BATCH):
            durable = check_durable(self._hooks.sink_write(records=records[first : first + MAX_BATCH]))
            self.durable = max(self.durable, durable or 0)
        return durable

    def write_rest(self, records: Sequence[Record], durable: int = 0) -> int | None:
        """Write the records after the ``last_seq`` returned by ``sink_open``; after ``durable`` if it is None."""
        last = durable if self.opened.last_seq is None else self.opened.last_seq
        return self.write([record for record in records if record.seq > last])

    def close(self, status: Status = "finished", reason: str = "") -> None:
        """End the backend's run."""
        self._hooks.sink_close(status=status, time=STARTED + 10**8, reason=reason)


class Kit:
    """A sink under test.

    The attributes declare the capabilities of the backend. The defaults are strict; declare less only if the backend
    cannot do better, and document it.

    Attributes:
        tells_last_seq: whether ``sink_open`` finds the highest sequence number present (never None).
        durable_on_write: whether records accepted by ``sink_write`` survive a kill and its result confirms this.
        exactly_once: whether records delivered again after a kill are shown once.
        shows_units: whether ``read_back`` returns the unit of each metric as shown by the backend.
        rewinds: how superseded points are treated after a resume from an earlier iteration: "replaced" if only a
            single curve is shown, "kept" if they stay visible.
        light_imports: third-party modules that the sink's module may import at the top level.
        timeout: maximum runtime of each process started by the checks, in seconds.
    """

    tells_last_seq: bool = True
    durable_on_write: bool = True
    exactly_once: bool = True
    shows_units: bool = True
    rewinds: Literal["replaced", "kept"] = "replaced"
    light_imports: tuple[str, ...] = ()
    timeout: float = 120.0

    def make_sink(self, folder: Path) -> object:
        """Return a new instance for the run in ``folder``, constructed as delivery would construct it.

        Also called in other processes, without pytest fixtures: pass any data it needs through ``os.environ``.
        """
        msg = f"{type(self).__name__} must define make_sink(folder), which returns a new instance of the sink"
        raise NotImplementedError(msg)

    def read_back(self, run: RunRecord, folder: Path) -> Iterable[Point]:
        """Return all points that the backend shows for a run, in order for each metric.

        Like a hook of a sink, it may omit arguments: a server knows the run only by its record, a file by its folder.

        Args:
            run: the record that ``sink_open`` received. ``run_id`` and ``started`` together identify the run.
            folder: the run folder.
        """
        msg = f"{type(self).__name__} must define read_back(run, folder), which returns a Point for each point shown"
        raise NotImplementedError(msg)

    def read_back_media(self, run: RunRecord, folder: Path) -> Iterable[MediaItem]:
        """Return what the backend shows of the kinds in the attribute ``media`` of the sink, in any order.

        The arguments are those of ``read_back``.
        """
        msg = (
            f"{type(self).__name__} must define read_back_media(run, folder), which returns a MediaItem for each text, "
            "table, image … shown, because the sink declares `media`"
        )
        raise NotImplementedError(msg)

    def shown_media(self, item: MediaItem) -> MediaItem:
        """Return an item as shown by the backend, for example with the text of a table."""
        return item

    def make_elsewhere(self, folder: Path) -> object | None:  # noqa: ARG002 - for overriding methods
        """Return an instance that writes the run in ``folder`` to another destination.

        None means that the destination follows the run folder: ``make_sink`` with another folder is used instead.
        """
        return None

    def outages(self, folder: Path) -> Iterable[AbstractContextManager[Any]]:  # noqa: ARG002 - likewise
        """Return context managers during which the run's backend is down, each in a different way."""
        return ()

    def round_value(self, value: float) -> float:
        """Return a value as stored by the backend, for example in 32 bits."""
        return value

    def shown_name(self, name: str) -> str:
        """Return the name of a metric as shown by the backend."""
        return name

    def open_sink(self, folder: Path, *, attempt: int = 1) -> Driver:
        """Open a new instance for the run in ``folder``."""
        return Driver(self.make_sink(folder), run_in(folder, attempt=attempt), folder)

    def deliver(self, folder: Path, records: Sequence[Record], *, attempt: int = 1) -> Driver:
        """With a new instance, write the records that are not present yet, then close it."""
        driver = self.open_sink(folder, attempt=attempt)
        driver.write_rest(records)
        driver.close()
        return driver

    def expected(self, records: Iterable[Record]) -> list[Point]:
        """Return the points that the backend should show."""
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

    def shown(self, folder: Path, run: RunRecord | None = None) -> list[Point]:
        """Return the points that the backend shows for a run, by default the one that ``open_sink`` opens."""
        points = [Point(*point) for point in call_with(self.read_back, run or run_in(folder), folder)]
        if not self.shows_units:
            points = [point._replace(unit="1") for point in points]
        # Strings as keys, because NaN is not equal to itself.
        return points if self.exactly_once else list({str(point): point for point in points}.values())

    def check_shows(self, folder: Path, records: Iterable[Record], remedy: str) -> None:
        """Assert that exactly the points of the records are shown; on failure, report the difference and the remedy."""
        wrong = difference(self.shown(folder), self.expected(records))
        assert not wrong, f"{wrong}. {remedy}"

    def check_claim(self, folder: Path, records: Sequence[Record], claim: int, claimed_by: str) -> None:
        """Assert that all records up to the claimed sequence number are shown; ``claimed_by`` begins the message."""
        last = records[-1].seq
        assert claim <= last, f"{claimed_by} {claim}, but the last record written is {last}"
        wrong = prefix_difference(self.shown(folder), self.expected(r for r in records if r.seq <= claim))
        assert not wrong, (
            f"{claimed_by} {claim}, but after a kill {wrong}. Report only records that have reached the backend."
        )

    def child(self, method: str, *args: Any) -> Child:
        """Call a method of this class in a separate process."""
        return Child(type(self), method, *map(str, args), timeout=self.timeout)


def run_in(folder: Path, *, attempt: int = 1) -> RunRecord:
    """Return the record of the run in ``folder``, the same in all processes; runs in different folders differ.

    Their names may be equal, so they start at different times, up to 12 days before their first point.
    """
    offset_ms = zlib.crc32(bytes(folder.absolute())) % 10**9
    return run_record(folder.name, attempt=attempt, started=STARTED - offset_ms)


def call_with(method: Callable[..., _T], run: RunRecord, folder: Path) -> _T:
    """Call a method of a sink author with those of the arguments ``run`` and ``folder`` that it accepts."""
    parameters = inspect.signature(method).parameters
    if "run" not in parameters:
        return method(folder)
    given = {"run": run, "folder": folder}
    return method(**{name: value for name, value in given.items() if name in parameters})


def drop(drivers: list[Driver]) -> None:
    """Drop instances without closing them, as delivery does after a failure."""
    with warnings.catch_warnings():
        # The instances may hold open files.
        warnings.simplefilter("ignore", ResourceWarning)
        drivers.clear()
        gc.collect()
