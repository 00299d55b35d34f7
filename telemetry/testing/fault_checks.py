"""Checks of failures: a full disk, exhausted file descriptors, a backend that is down."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.testing.child import Report
from telemetry.testing.kit import Driver, Kit, drop
from telemetry.testing.points import sample

_ROOM = (0, 25, 160, 700)
"""Bytes by which files can still grow before the disk is full; a batch is truncated at several positions."""
_REMEDY = (
    'Convert all exceptions of the backend: decorate the hook with `backend_errors("name")` of telemetry.sink_api, or '
    "raise SinkUnavailable (retry) or SinkRejected (never retry) yourself."
)
_TEMPORARY = "Raise SinkUnavailable for temporary faults; SinkRejected ends delivery."


class FaultChecks(Kit):
    """Faults of the backend are reported and lose nothing."""

    def test_a_full_disk_and_exhausted_file_descriptors_are_reported_and_lose_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        with self.child("_write_under_limits", folder) as writer:
            last = writer.read()
        self.check_shows(
            folder,
            sample(1, last),
            "A failed call may have written part of its batch. When a new instance is opened, find out which records "
            "are present: none may be lost or duplicated.",
        )

    def test_an_outage_is_reported_and_loses_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        self.deliver(folder, sample(1, 10))
        last = 10
        outages = list(self.outages(folder))
        if not outages:
            pytest.skip("no outages are defined: define outages(folder)")
        for outage in outages:
            live = self.open_sink(folder)
            last += 10
            with outage:
                self._fail(folder, live, last, rejects=True)
            self.deliver(folder, sample(1, last))
        self.check_shows(folder, sample(1, last), "Records held back by an outage must be delivered once afterwards.")

    def _write_under_limits(self, report: Report, folder: str) -> None:
        run = Path(folder)
        live, last = self.open_sink(run), 10
        live.write(sample(1, last))
        full = [partial(_full_disk, run, room) for room in _ROOM]
        limits: list[Callable[[], AbstractContextManager[None]]] = [*full, _no_descriptors]
        for limit in limits:
            last += 10
            with limit():
                self._fail(run, live, last, rejects=False)
            drivers = [live]
            del live
            drop(drivers)
            live = self.open_sink(run)
            live.write_rest(sample(1, last))
        live.close()
        report(last)

    def _fail(self, folder: Path, live: Driver, last: int, *, rejects: bool) -> None:
        """Call each hook as delivery would; it may raise only errors that delivery can interpret."""

        def write_with_new_instance() -> None:
            self.open_sink(folder).write_rest(sample(1, last))

        calls: dict[str, Callable[[], object]] = {
            "sink_write": lambda: live.write(sample(last - 9, last)),
            "sink_open or sink_write": write_with_new_instance,
            "sink_close": live.close,
        }
        for hook, call in calls.items():
            try:
                call()
            except SinkUnavailable:
                continue
            except SinkRejected as error:
                if not rejects:
                    msg = f"{hook} raised {error!r} on a full disk or without file descriptors. {_TEMPORARY}"
                    raise AssertionError(msg) from error
            except Exception as error:
                msg = f"{hook} raised {type(error).__name__}: {error}. {_REMEDY}"
                raise AssertionError(msg) from error


@contextmanager
def _full_disk(folder: Path, room: int) -> Iterator[None]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    # Python ignores SIGXFSZ: a write beyond the limit is truncated, and the next one fails.
    with _limit(resource.RLIMIT_FSIZE, max(sizes, default=0) + room if room else 0):
        yield


@contextmanager
def _no_descriptors() -> Iterator[None]:
    descriptors = [os.open(os.devnull, os.O_RDONLY)]
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    with _limit(resource.RLIMIT_NOFILE, highest + 1):
        try:
            while True:
                descriptors.append(os.dup(descriptors[0]))
        except OSError:
            yield
        finally:
            for fd in descriptors:
                os.close(fd)


@contextmanager
def _limit(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
