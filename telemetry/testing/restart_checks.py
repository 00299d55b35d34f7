"""Checks of continued delivery: after a restart, a kill, a lost acknowledgment, or a resume from an earlier step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from telemetry.records import Record
from telemetry.testing.child import Report
from telemetry.testing.kit import Driver, Kit, drop
from telemetry.testing.points import difference, resumed, sample, scalars

_ONCE = (
    "In sink_open, read the highest sequence number back from the backend and return it as last_seq; in sink_write, "
    "skip records up to it."
)
_PLANNED = 200
"""Number of records that a process would write if it were not killed."""


class RestartChecks(Kit):
    """Nothing is lost or duplicated when delivery continues."""

    def test_reported_and_durable_positions_match_what_was_written(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        driver = self.open_sink(folder)
        self._check_position(driver, 0, 0)
        for first, last in ((1, 4), (5, 5), (6, 12)):
            durable = driver.write(sample(first, last))
            assert durable is None or durable <= last, (
                f"sink_write returned {durable} as durable, but the last record was {last}"
            )
            if self.durable_on_write:
                assert durable == last, (
                    f"sink_write returned {durable!r} after record {last}; return the last durable number, or "
                    "declare durable_on_write = False if the backend confirms records only later"
                )
        driver.close()
        self._check_position(self.open_sink(folder), 12, 12)

    def test_a_batch_delivered_twice_is_shown_once(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        self.deliver(folder, sample(1, 10))
        driver = self.open_sink(folder)
        driver.write(sample(1, 10))
        driver.write(sample(6, 15))
        driver.close()
        self.check_shows(folder, sample(1, 15), _ONCE)

    def test_a_new_instance_continues_where_a_dropped_one_stopped(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        dropped = [self.open_sink(folder)]
        dropped[0].write(sample(1, 10))
        durable = dropped[0].durable
        drop(dropped)
        again = self.open_sink(folder)
        self._check_position(again, durable, 10)
        again.write_rest(sample(1, 20), durable)
        again.close()
        self.check_shows(folder, sample(1, 20), "After a failure, delivery opens a new instance and drops the old one.")

    def test_a_kill_between_write_and_acknowledgment_neither_loses_nor_duplicates_records(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records = sample(1, 20)
        with self.child("_write_one_batch", folder) as writer:
            before = writer.read()
            durable = writer.read()
        self.check_claim(folder, records, durable or 0, "sink_write returned as durable")
        shown = self.shown(folder)
        (tmp_path / "elsewhere").mkdir()
        with self.child("_continue", folder, tmp_path / "elsewhere") as another:
            destination = another.read()
            assert destination == before, (
                f"destination is {destination!r} in a process with another working directory, but was {before!r}; it "
                "must not depend on the working directory"
            )
            last = another.read()
            another.read()  # everything is written and closed
        if last is not None:
            # A backend may show records with a delay, but it must show all records that it reports as present.
            self._check_last_seq(last, durable or 0, 20)
            wrong = difference(shown, self.expected(r for r in records if r.seq <= last))
            assert not (wrong and self.durable_on_write), (
                f"sink_open in a new process returned last_seq={last}, but {wrong}"
            )
        self.check_shows(folder, sample(1, 40), _ONCE)

    def test_a_kill_at_any_moment_loses_no_durable_record(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        durable = 0
        with self.child("_keep_writing", folder) as writer:
            for _ in range(4):
                durable = max(durable, writer.read() or 0)
            # Processes started by the SDK survive, as they do when delivery is killed.
            writer.kill_alone()
            self.check_claim(folder, sample(1, _PLANNED), durable, "sink_write returned as durable")
            again = self.open_sink(folder)
            self._check_position(again, durable if self.tells_last_seq else 0, _PLANNED)
            again.write_rest(sample(1, _PLANNED), durable)
            again.close()
        self.check_shows(folder, sample(1, _PLANNED), f"After a kill, part of a batch may be present. {_ONCE}")

    def test_a_new_attempt_that_starts_earlier_is_shown_as_declared(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        first = [scalars(seq, seq, loss=seq, E_rmse=-seq) for seq in range(1, 7)]
        again: list[Record] = [resumed(10**9 + 1, step=3)]
        again += [scalars(10**9 + step + 10, step, loss=10 * step, E_rmse=-step) for step in range(4, 9)]
        self.deliver(folder, first)
        # As after a kill, the second instance does not write records that are already present.
        for known in (again[:3], again):
            driver = self.open_sink(folder, attempt=2)
            driver.write_rest([*first, *known])
            driver.close()
        kept: Sequence[Record] = first if self.rewinds == "kept" else first[:3]
        self.check_shows(
            folder,
            [*kept, *again],
            f"Resumed(step=3) supersedes earlier points beyond iteration 3; rewinds is {self.rewinds!r}: "
            "replace them ('replaced') or keep both, in order of arrival ('kept'), and declare which.",
        )

    def _write_one_batch(self, report: Report, folder: str) -> Driver:
        driver = self.open_sink(Path(folder))
        report(driver.opened.destination)
        report(driver.write(sample(1, 20)))
        return driver

    def _continue(self, report: Report, folder: str, start: str) -> Driver:
        os.chdir(start)
        driver = self.open_sink(Path(folder))
        report(driver.opened.destination)
        report(driver.opened.last_seq)
        driver.write_rest(sample(1, 40))
        driver.close()
        report(None)
        return driver

    def _keep_writing(self, report: Report, folder: str) -> Driver:
        driver = self.open_sink(Path(folder))
        for first in range(1, _PLANNED, 10):
            report(driver.write(sample(first, first + 9)))
        return driver

    def _check_position(self, driver: Driver, lowest: int, highest: int) -> None:
        last = driver.opened.last_seq
        if last is None:
            assert not self.tells_last_seq, (
                "sink_open does not know its position (last_seq is None), so a kill may duplicate records: find the "
                "highest sequence number in the backend, or declare tells_last_seq = False"
            )
        else:
            self._check_last_seq(last, lowest, highest)

    def _check_last_seq(self, last: int, lowest: int, highest: int) -> None:
        assert last >= lowest, (
            f"sink_open returned last_seq={last}, but record {lowest} is present; read it back from the backend"
        )
        assert last <= highest, (
            f"sink_open returned last_seq={last}, but the last record written is {highest}: the records in between "
            "would never be delivered"
        )
