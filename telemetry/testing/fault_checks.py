"""Checks of failures: disks that are full, processes without file descriptors, backends that are down."""

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
"""Bytes by which files can still grow when the disk is full: a batch is cut short in several places."""
_CURE = (
    'Let nothing of the backend pass as it is: put `with backend_errors("name"):` of telemetry around what a hook '
    "does, or raise SinkUnavailable (try again) or SinkRejected (never) yourself."
)
_PASSES = "Raise SinkUnavailable for what may pass; delivery ends at a SinkRejected."


class FaultChecks(Kit):
    """What a sink owes when its backend fails."""

    def test_a_full_disk_or_no_file_descriptors_are_told_and_cost_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        with self.child("_write_under_limits", folder) as writer:
            last = writer.read()
        self.check_shows(
            folder,
            sample(1, last),
            "A call that fails may have written a part of its batch. Look what is there when a new instance is opened: "
            "nothing may be lost, and nothing be there twice.",
        )

    def test_an_outage_is_told_and_costs_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        self.deliver(folder, sample(1, 10))
        last = 10
        outages = list(self.outages(folder))
        if not outages:
            pytest.skip("how the backend goes down is not said: give outages(folder)")
        for outage in outages:
            live = self.open_sink(folder)
            last += 10
            with outage:
                self._fail(folder, live, last, rejects=True)
            self.deliver(folder, sample(1, last))
        self.check_shows(folder, sample(1, last), "What an outage has stopped is delivered after it, once.")

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
        """Call each hook as delivery would; whatever it raises must be an error that delivery can judge."""

        def write_anew() -> None:
            self.open_sink(folder).write_rest(sample(1, last))

        calls: dict[str, Callable[[], object]] = {
            "sink_write": lambda: live.write(sample(last - 9, last)),
            "sink_open or sink_write": write_anew,
            "sink_close": live.close,
        }
        for hook, call in calls.items():
            try:
                call()
            except SinkUnavailable:
                continue
            except SinkRejected as error:
                if not rejects:
                    msg = f"{hook} raised {error!r} on a full disk or without descriptors, which pass. {_PASSES}"
                    raise AssertionError(msg) from error
            except Exception as error:
                msg = f"{hook} raised {type(error).__name__}: {error}. {_CURE}"
                raise AssertionError(msg) from error


@contextmanager
def _full_disk(folder: Path, room: int) -> Iterator[None]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    # Python ignores SIGXFSZ, so that a write beyond the limit is cut short, and the next one fails.
    with _limit(resource.RLIMIT_FSIZE, max(sizes, default=0) + room if room else 0):
        yield


@contextmanager
def _no_descriptors() -> Iterator[None]:
    taken = [os.open(os.devnull, os.O_RDONLY)]
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    with _limit(resource.RLIMIT_NOFILE, highest + 1):
        try:
            while True:
                taken.append(os.dup(taken[0]))
        except OSError:
            yield
        finally:
            for fd in taken:
                os.close(fd)


@contextmanager
def _limit(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))
