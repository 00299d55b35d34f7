"""Checks of failures: a full disk, exhausted file descriptors, a backend that is down."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from telemetry.run_folder.paths import sinks_folder
from telemetry.testing.child import Report
from telemetry.testing.kit import Kit
from telemetry.testing.points import sample
from telemetry.testing.rehearsal import BATCH, Rehearsal, Script, finish

_Limit = Callable[[Path], AbstractContextManager[None]]

_ROOM = (0, 25, 160, 700)
"""Bytes by which files can still grow before the disk is full; a batch is truncated at several positions."""
# The last of these faults meets an instance that has written several batches.
_TWICE_AND_AT_THE_END = Script(failing=(False, True, True, False, False, False, True, False), close_fails=True)
_KILLED = "full-and-killed"
_LOST = (
    "Delivery sends only the records after the last one that the sink has acknowledged. Pass no error over: a hook "
    "that returns has accepted its records. "
)


class FaultChecks(Kit):
    """Faults of the backend are reported and lose nothing."""

    def test_a_full_disk_and_exhausted_file_descriptors_are_reported_and_lose_nothing(self, tmp_path: Path) -> None:
        lengths = {}
        with self.child("_write_under_limits", tmp_path) as writer:
            for _ in range(len(_ROOM) + 2):
                name, last = writer.read()
                lengths[name] = last
            durable = writer.read()
        killed = tmp_path / _KILLED
        lengths[_KILLED] = 2 * BATCH
        self.check_claim(killed, sample(1, 2 * BATCH), durable, "on a full disk, sink_write returned as durable")
        finish(killed, partial(self.make_sink, killed))
        for name, last in lengths.items():
            self.check_shows(
                tmp_path / name,
                sample(1, last),
                f"{_LOST}A failed call may have written part of its batch. When a new instance is opened, find out "
                "which records are present: none may be lost or duplicated.",
            )

    def test_an_outage_is_reported_and_loses_nothing(self, tmp_path: Path) -> None:
        outages = len(list(self.outages(tmp_path / "run")))
        if not outages:
            pytest.skip("no outages are defined: define outages(folder)")
        for number in range(outages):
            run = tmp_path / f"run-{number}"
            fault = partial(self._outage, run, number)
            last = self._rehearse(run, replace(_TWICE_AND_AT_THE_END, batches_fault=fault, may_reject=True)).last_seq
            self.check_shows(
                run,
                sample(1, last),
                f"{_LOST}Records held back by an outage must be delivered once afterwards; those for which sink_write "
                "raises SinkRejected are set aside.",
            )

    def _write_under_limits(self, report: Report, folder: str) -> Rehearsal:
        runs: dict[str, tuple[_Limit, Script]] = {
            **{f"full-{room}": (partial(_full_disk, room=room), _TWICE_AND_AT_THE_END) for room in _ROOM},
            "no-descriptors": (_no_descriptors, _TWICE_AND_AT_THE_END),
            "full-at-both-ends": (_full_disk, Script(failing=(True, False, True))),
        }
        for name, (limit, script) in runs.items():
            run = Path(folder) / name
            report([name, self._rehearse(run, replace(script, calls_fault=partial(limit, run))).last_seq])
        run = Path(folder) / _KILLED
        script = Script(failing=(False, True), close_fails=None, calls_fault=partial(_full_disk, run))
        killed = self._rehearse(run, script)
        report(killed.durable)
        return killed

    def _rehearse(self, run: Path, script: Script) -> Rehearsal:
        rehearsal = Rehearsal(run, partial(self.make_sink, run), script)
        rehearsal.run()
        return rehearsal

    def _outage(self, run: Path, number: int) -> AbstractContextManager[Any]:
        return list(self.outages(run))[number]


@contextmanager
def _full_disk(folder: Path, room: int = 0) -> Iterator[None]:
    # The backend's files: those of delivery can be larger.
    files = set(folder.rglob("*")) - set(folder.glob("journal-*")) - set(sinks_folder(folder).rglob("*"))
    sizes = [path.stat().st_size for path in files if path.is_file()]
    # Python ignores SIGXFSZ: a write beyond the limit is truncated, and the next one fails.
    with _limit(resource.RLIMIT_FSIZE, max(sizes, default=0) + room if room else 0):
        yield


@contextmanager
def _no_descriptors(_: Path) -> Iterator[None]:
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
