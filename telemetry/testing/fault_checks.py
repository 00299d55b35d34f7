"""Checks of failures: a full disk, exhausted file descriptors, a backend that is down."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from telemetry.run_folder.paths import sinks_folder
from telemetry.testing.child import Report
from telemetry.testing.kit import Kit
from telemetry.testing.points import sample
from telemetry.testing.rehearsal import BATCH, Rehearsal, Script, finish

_ROOM = (0, 25, 160, 700)
"""Bytes by which files can still grow before the disk is full; a batch is truncated at several positions."""
_LOST = (
    "Delivery sends only the records after the last one that the sink has acknowledged. Pass no error over: a hook that "
    "returns has accepted its records. "
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
        killed = tmp_path / "killed"
        self.check_claim(killed, sample(1, 2 * BATCH), durable, "on a full disk, sink_write returned as durable")
        finish(killed, lambda: self.make_sink(killed))
        for name, last in {**lengths, killed.name: 2 * BATCH}.items():
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
            folder = tmp_path / f"run-{number}"
            script = Script(
                failing=(False, True, True, False),
                close_fails=True,
                batches_fault=lambda folder=folder, number=number: list(self.outages(folder))[number],
                may_reject=True,
            )
            rehearsal = Rehearsal(folder, lambda folder=folder: self.make_sink(folder), script)
            rehearsal.run()
            self.check_shows(
                folder,
                sample(1, rehearsal.last_seq),
                f"{_LOST}Records held back by an outage must be delivered once afterwards; those for which sink_write "
                "raises SinkRejected are set aside.",
            )

    def _write_under_limits(self, report: Report, folder: str) -> Rehearsal:
        def rehearse(name: str, limit: Callable[[Path], AbstractContextManager[None]], script: Script) -> Rehearsal:
            run = Path(folder) / name
            faulty = dataclasses.replace(script, calls_fault=lambda: limit(run))
            rehearsal = Rehearsal(run, lambda: self.make_sink(run), faulty)
            rehearsal.run()
            return rehearsal

        twice = Script(failing=(False, True, True, False), close_fails=True)
        first_and_last = Script(failing=(True, False, True))
        full = partial(_full_disk, room=0)
        runs = [(f"full-{room}", partial(_full_disk, room=room), twice) for room in _ROOM]
        runs += [("no-descriptors", _no_descriptors, twice), ("ends", full, first_and_last)]
        for name, limit, script in runs:
            report([name, rehearse(name, limit, script).last_seq])
        killed = rehearse("killed", full, Script(failing=(False, True), close_fails=None))
        report(killed.durable)
        return killed


@contextmanager
def _full_disk(folder: Path, room: int) -> Iterator[None]:
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
