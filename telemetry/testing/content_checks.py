"""Checks of the content shown by the backend: points, names, values, record kinds, runs, destinations, status."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from telemetry.metrics import Metric
from telemetry.records import Alert, Closed, Record, RunUpdate, Status
from telemetry.testing.kit import Driver, Kit, run_in
from telemetry.testing.points import ODD_NAMES, STARTED, difference, sample, scalars


class UnknownKind(Record, frozen=True, kw_only=True, tag="unknown"):
    """A kind of record that a later version may introduce."""

    text: str = ""


class ContentChecks(Kit):
    """The curves are complete and correct."""

    def test_each_point_is_shown_once_in_order_with_its_step_value_time_and_unit(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records = sample(1, 30)
        records += [
            scalars(31, 2**33, loss=1e-300, E_rmse=-1e30, F_rmse=0.0),
            scalars(32, 2**33, "val", loss=0.1, E_rmse=123456.789, F_rmse=1 / 3),
        ]
        driver = self.open_sink(folder)
        for first, last in ((0, 1), (1, 3), (3, 20), (20, 32)):
            driver.write(records[first:last])
        driver.close()
        self.check_shows(folder, records, "Write each record of a batch, in order and unchanged.")

    def test_nan_and_infinities_are_shown_unchanged(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records = [scalars(seq, loss=value) for seq, value in enumerate((1.0, math.nan, math.inf, -math.inf, 2.0), 1)]
        self.deliver(folder, records)
        self.check_shows(
            folder,
            records,
            "A diverging run has such values, and the user must see them. "
            "If the backend converts them, declare how in round_value.",
        )

    def test_unusual_names_are_shown_as_separate_curves(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records = [scalars(seq, None, "val", **{name: 1 / seq}) for seq, name in enumerate(ODD_NAMES, 1)]
        records.append(scalars(9, None, "val", **dict.fromkeys(ODD_NAMES, 2.0)))
        self.deliver(folder, records)
        shown = {self.shown_name(f"val/{name}") for name in ODD_NAMES}
        assert len(shown) == len(ODD_NAMES), "shown_name maps several metrics to one name; their curves would be mixed"
        self.check_shows(
            folder,
            records,
            "Users choose the names of fidelities. Replace characters that the backend rejects, keep names distinct, "
            "and return the original names in read_back or the replaced ones in shown_name.",
        )

    def test_a_metric_declared_later_is_shown_with_its_unit(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        late = RunUpdate(
            seq=3, time=STARTED + 3003, metrics={"val/T_rmse": Metric(unit="K", label="RMSE of temperature")}
        )
        records = [*sample(1, 2), late, scalars(4, stream="val", T_rmse=1.5)]
        self.deliver(folder, records)
        self.check_shows(
            folder,
            records,
            "A metric may appear after the run was opened; its declaration is in a RunUpdate record: "
            "run = updated(run, record).",
        )

    def test_records_of_unknown_kinds_are_ignored(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        time = STARTED + 5000
        empty = scalars(5)
        empty.values.clear()
        records: list[Record] = [
            UnknownKind(seq=1, time=time),
            scalars(2),
            Alert(seq=3, time=time, step=20, title="loss is NaN", text="since 20", level="error"),
            UnknownKind(seq=4, time=time),
            empty,
            scalars(6),
            Closed(seq=7, time=time, status="failed"),
            UnknownKind(seq=8, time=time),
        ]
        driver = self.open_sink(folder)
        try:
            for record in records:
                driver.write([record])
            driver.write(records[:0])
        except Exception as error:
            what = f"sink_write raised {error!r} for a record of an unknown kind or without values"
            msg = f"{what}; ignore records that are not Scalars"
            raise AssertionError(msg) from error
        driver.close()
        self.check_shows(folder, records, "Records of unknown kinds must not change anything.")
        last = self.open_sink(folder).opened.last_seq
        assert last is None or 6 <= last <= 8, (  # noqa: PLR2004 - the last Scalars, and the last record
            f"sink_open returned last_seq={last}; expected 6, or 8 if ignored records count"
        )

    def test_ten_thousand_records_are_all_shown_in_order(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records: list[Record] = [scalars(seq) for seq in range(1, 10_001)]
        self.deliver(folder, records)
        self.check_shows(folder, records, "Do not sample or drop records, and return the whole curve from read_back.")

    def test_delivery_works_from_any_thread(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(self.deliver, folder, sample(1, 10)).result()
            except Exception as error:
                msg = f"{error!r} outside the main thread, but `telemetry sync` delivers from other threads"
                raise AssertionError(msg) from error
        self.check_shows(folder, sample(1, 10), "`telemetry sync` delivers from a thread other than the main one.")

    def test_two_runs_in_one_process_stay_separate(self, tmp_path: Path) -> None:
        # Users choose the names of runs, too.
        self._check_separate(
            tmp_path / "é=50% #1",
            tmp_path / "é=50% #1?",
            "Keep the state of a run in the instance, not in the module or in the SDK's global run, and distinguish "
            "runs by the complete run_id, whatever characters it contains.",
        )

    def test_two_runs_with_the_same_name_stay_separate(self, tmp_path: Path) -> None:
        self._check_separate(
            tmp_path / "one" / "run",
            tmp_path / "two" / "run",
            "Runs in different folders may have the same run_id; distinguish them by run.started, too.",
        )

    def test_a_different_destination_is_reported_and_filled_from_the_beginning(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        before = self.deliver(folder, sample(1, 10)).opened.destination
        sink = self.make_elsewhere(folder)
        run = run_in(folder)
        place = folder if sink is not None else tmp_path / "elsewhere" / "run"  # the same run in another folder
        driver = Driver(self.make_sink(place) if sink is None else sink, run, place)
        now, last = driver.opened.destination, driver.opened.last_seq
        assert isinstance(now, str), f"destination is {now!r}; it must be a string"
        assert now, "destination is empty; it must identify the place, because progress is kept per destination"
        assert now != before, (
            f"destination is {now!r} for two different places; progress in one would count for the other"
        )
        assert not last, f"sink_open returned last_seq={last} for a destination without records"
        driver.write(sample(1, 12))
        driver.close()
        self.check_shows(folder, sample(1, 10), "Records written to another destination must not change this one.")
        sink_here = self.make_sink(folder)
        with contextlib.chdir(tmp_path):
            again = Driver(sink_here, run, Path(folder.name)).opened.destination
        assert again == before, (
            f"destination is {again!r} for a relative path of the run folder and was {before!r} for the absolute one; "
            "make it absolute, because `telemetry sync` can be started anywhere"
        )
        if sink is None:
            wrong = difference(self.shown(place, run), self.expected(sample(1, 12)))
            assert not wrong, f"{wrong}. Derive the destination from the options and the run folder."

    def test_closing_twice_has_no_further_effect_even_without_points(self, tmp_path: Path) -> None:
        for folder, records in ((tmp_path / "run", sample(1, 9)), (tmp_path / "empty", [])):
            driver = self.open_sink(folder)
            driver.write(records)
            driver.close()
            driver.close()
            again = self.open_sink(folder)
            again.close()
            self.check_shows(
                folder, records, "A later `telemetry sync` closes the run again, which must not change anything."
            )

    def test_a_closed_run_can_be_continued_whatever_its_status(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        ends: list[Status] = ["preempted", "killed", "failed", "finished"]
        for number, status in enumerate(ends, 1):
            driver = self.open_sink(folder)
            driver.write_rest(sample(1, 5 * number))
            driver.close(status, reason="SIGTERM" if status == "preempted" else "")
            self.check_shows(
                folder,
                sample(1, 5 * number),
                f"The run was just closed as {status}. Closing keeps its points; after a resume, new ones appear, too.",
            )

    def _check_separate(self, one: Path, two: Path, remedy: str) -> None:
        first, second = self.open_sink(one), self.open_sink(two)
        for start in (1, 11):
            first.write(sample(start, start + 9))
            second.write([scalars(seq, loss=-seq) for seq in range(start, start + 10)])
        first.close()
        second.close()
        self.check_shows(one, sample(1, 20), remedy)
        self.check_shows(two, [scalars(seq, loss=-seq) for seq in range(1, 21)], remedy)
