"""Checks of going on: after a restart, a kill, a lost acknowledgement, a resume from an earlier iteration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from telemetry.records import Record
from telemetry.testing.child import Report
from telemetry.testing.kit import Driver, Kit, drop
from telemetry.testing.points import difference, resumed, sample, scalars

_ONCE = (
    "Read the highest sequence number back from the backend in sink_open, return it as last_seq, and pass over records "
    "up to it in sink_write."
)
_KILLED = 200
"""Records that a process is to write that is killed before it can."""


class RestartChecks(Kit):
    """What a sink owes to those who go on with its run."""

    def test_what_it_says_to_hold_and_to_be_durable_is_what_was_written(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        driver = self.open_sink(folder)
        self._check_told(driver, 0, 0)
        for first, last in ((1, 4), (5, 5), (6, 12)):
            durable = driver.write(sample(first, last))
            assert durable is None or durable <= last, (
                f"sink_write says {durable} is durable; {last} was the last given"
            )
            if self.durable_on_write:
                assert durable == last, (
                    f"sink_write returned {durable!r} after record {last}; return the last number that is durable, or "
                    "declare durable_on_write = False if the backend tells only later"
                )
        driver.close()
        self._check_told(self.open_sink(folder), 12, 12)

    def test_a_batch_that_is_delivered_twice_is_shown_once(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        self.deliver(folder, sample(1, 10))
        driver = self.open_sink(folder)
        driver.write(sample(1, 10))
        driver.write(sample(6, 15))
        driver.close()
        self.check_shows(folder, sample(1, 15), _ONCE)

    def test_a_new_instance_goes_on_where_one_that_was_dropped_stopped(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        dropped = [self.open_sink(folder)]
        dropped[0].write(sample(1, 10))
        durable = dropped[0].durable
        drop(dropped)
        again = self.open_sink(folder)
        self._check_told(again, durable, 10)
        again.write_rest(sample(1, 20))
        again.close()
        self.check_shows(folder, sample(1, 20), "After a failure delivery opens a new instance and drops the old one.")

    def test_a_kill_between_write_and_acknowledgement_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records = sample(1, 20)
        with self.child("_write_one_batch", folder) as writer:
            before = writer.read()
            durable = writer.read()
        self.check_claim(folder, records, durable or 0, "sink_write says that the last durable record is")
        shown = self.shown(folder)
        (tmp_path / "elsewhere").mkdir()
        with self.child("_go_on", folder, tmp_path / "elsewhere") as another:
            destination = another.read()
            assert destination == before, (
                f"destination is {destination!r} in a process that was started elsewhere, and was {before!r}: it must "
                "not depend on the working directory"
            )
            last = another.read()
            another.read()  # all is written, and closed
        if last is not None:
            # What a backend holds it may show only later, but never less than it says.
            self._check_held(last, durable or 0, 20)
            wrong = difference(shown, self.expected(r for r in records if r.seq <= last))
            assert not (wrong and self.durable_on_write), (
                f"sink_open of a new process says that record {last} is the last one there, but {wrong}"
            )
        self.check_shows(folder, sample(1, 40), _ONCE)

    def test_a_kill_at_any_moment_loses_nothing_that_was_called_durable(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        durable = 0
        with self.child("_write_on", folder) as writer:
            for _ in range(4):
                durable = max(durable, writer.read() or 0)
            # Processes that the SDK has started live on, as when delivery is killed.
            writer.kill_alone()
            self.check_claim(folder, sample(1, _KILLED), durable, "sink_write says that the last durable record is")
            again = self.open_sink(folder)
            self._check_told(again, durable if self.tells_last_seq else 0, _KILLED)
            again.write_rest(sample(1, _KILLED))
            again.close()
        self.check_shows(folder, sample(1, _KILLED), f"A part of a batch may be there after a kill. {_ONCE}")

    def test_a_new_attempt_that_goes_back_in_steps_is_shown_as_declared(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        first = [scalars(seq, seq, loss=seq, E_rmse=-seq) for seq in range(1, 7)]
        again: list[Record] = [resumed(10**9 + 1, step=3)]
        again += [scalars(10**9 + step + 10, step, loss=10 * step, E_rmse=-step) for step in range(4, 9)]
        self.deliver(folder, first)
        # The second time as after a kill: what is there is not given again.
        for known in (again[:3], again):
            driver = self.open_sink(folder, attempt=2)
            driver.write_rest([*first, *known])
            driver.close()
        kept: Sequence[Record] = first if self.rewinds == "kept" else first[:3]
        self.check_shows(
            folder,
            [*kept, *again],
            f"After Resumed(step=3) what came before it beyond iteration 3 is superseded; rewinds is {self.rewinds!r}: "
            "leave one curve ('replaced') or keep both, in the order of their coming ('kept'), and declare which.",
        )

    def _write_one_batch(self, report: Report, folder: str) -> Driver:
        driver = self.open_sink(Path(folder))
        report(driver.opened.destination)
        report(driver.write(sample(1, 20)))
        return driver

    def _go_on(self, report: Report, folder: str, start: str) -> Driver:
        os.chdir(start)
        driver = self.open_sink(Path(folder))
        report(driver.opened.destination)
        report(driver.opened.last_seq)
        driver.write_rest(sample(1, 40))
        driver.close()
        report(None)
        return driver

    def _write_on(self, report: Report, folder: str) -> Driver:
        driver = self.open_sink(Path(folder))
        for first in range(1, _KILLED, 10):
            report(driver.write(sample(first, first + 9)))
        return driver

    def _check_told(self, driver: Driver, lowest: int, highest: int) -> None:
        last = driver.opened.last_seq
        if last is None:
            assert not self.tells_last_seq, (
                "sink_open cannot tell what is there (last_seq is None), and after a kill records may come twice: find "
                "the highest sequence number in the backend, or declare tells_last_seq = False"
            )
        else:
            self._check_held(last, lowest, highest)

    def _check_held(self, last: int, lowest: int, highest: int) -> None:
        assert last >= lowest, f"sink_open says that {last} is the last record there, but {lowest} is; read it back"
        assert last <= highest, (
            f"sink_open says that {last} is the last record there, but only {highest} have come: what is between would "
            "never be delivered"
        )
