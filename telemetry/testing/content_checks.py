"""Checks of what is shown: points, names, values, kinds, numbers of them, runs, destinations, ends."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from telemetry.records import Alert, Closed, Record, Status
from telemetry.testing.kit import Driver, Kit
from telemetry.testing.points import ODD_NAMES, STARTED, run_record, sample, scalars


class Unheard(Record, frozen=True, kw_only=True, tag="unheard"):
    """A kind of record that a later version may bring."""

    text: str = ""


class ContentChecks(Kit):
    """What a sink owes to the curves."""

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
        self.check_shows(folder, records, "Write each record of a batch, in order, as it is.")

    def test_nan_and_the_infinities_are_shown_as_what_they_are(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        values = [1.0, math.nan, math.inf, -math.inf, 2.0]
        records = [scalars(seq, loss=value) for seq, value in enumerate(values, 1)]
        self.deliver(folder, records)
        self.check_shows(
            folder,
            records,
            "A run that diverges has such values, and its user has to see them. "
            "If the backend makes something else of them, say what in round_value.",
        )

    def test_odd_names_are_shown_each_as_a_curve_of_its_own(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records = [scalars(seq, None, "val", **{name: 1 / seq}) for seq, name in enumerate(ODD_NAMES, 1)]
        records.append(scalars(9, None, "val", **dict.fromkeys(ODD_NAMES, 2.0)))
        self.deliver(folder, records)
        shown = {self.shown_name(f"val/{name}") for name in ODD_NAMES}
        assert len(shown) == len(ODD_NAMES), "shown_name gives one name to several metrics; their curves would be mixed"
        self.check_shows(
            folder,
            records,
            "Users name fidelities as they like. Replace what the backend refuses, so that names stay apart, and give "
            "the original names in read_back or the replaced ones in shown_name.",
        )

    def test_kinds_that_it_does_not_know_are_passed_over(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        time = STARTED + 5000
        empty = scalars(5)
        empty.values.clear()
        records: list[Record] = [
            Unheard(seq=1, time=time),
            scalars(2),
            Alert(seq=3, time=time, step=20, title="loss is NaN", text="since 20", level="error"),
            Unheard(seq=4, time=time),
            empty,
            scalars(6),
            Closed(seq=7, time=time, status="failed"),
            Unheard(seq=8, time=time),
        ]
        driver = self.open_sink(folder)
        try:
            for record in records:
                driver.write([record])
            driver.write(records[:0])
        except Exception as error:
            what = f"sink_write raised {error!r} for a record of a kind that it need not know, or without values"
            msg = f"{what}; pass over what is no Scalars"
            raise AssertionError(msg) from error
        driver.close()
        self.check_shows(folder, records, "Records of kinds that a sink does not know change nothing.")
        last = self.open_sink(folder).opened.last_seq
        assert last is None or 6 <= last <= 8, (  # noqa: PLR2004 - the last Scalars, and the last record
            f"sink_open says that {last} is the last record there; it is 6, or 8 with those that were passed over"
        )

    def test_ten_thousand_records_are_shown_each_in_its_place(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        records: list[Record] = [scalars(seq) for seq in range(1, 10_001)]
        self.deliver(folder, records)
        self.check_shows(folder, records, "Nothing may be sampled or dropped; give read_back the whole curve.")

    def test_any_thread_can_deliver(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(self.deliver, folder, sample(1, 10)).result()
            except Exception as error:
                msg = f"{error!r} in a thread that is not the main one; `telemetry sync` delivers from such threads"
                raise AssertionError(msg) from error
        self.check_shows(folder, sample(1, 10), "`telemetry sync` delivers from a thread that is not the main one.")

    def test_two_runs_in_one_process_stay_apart(self, tmp_path: Path) -> None:
        # Users name runs as they like, too.
        one, two = tmp_path / "é=50% #1", tmp_path / "é=50% #1?"
        first, second = self.open_sink(one), self.open_sink(two)
        for start in (1, 11):
            first.write(sample(start, start + 9))
            second.write([scalars(seq, loss=-seq) for seq in range(start, start + 10)])
        first.close()
        second.close()
        cure = (
            "Keep what belongs to a run in the instance, not in the module or in the SDK's global run, and tell runs "
            "apart by the whole of run_id, whatever characters it has."
        )
        self.check_shows(one, sample(1, 20), cure)
        self.check_shows(two, [scalars(seq, loss=-seq) for seq in range(1, 21)], cure)

    def test_a_changed_destination_is_told_and_filled_from_the_beginning(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        before = self.deliver(folder, sample(1, 10)).opened.destination
        sink = self.make_elsewhere(folder)
        # The same run, though in another folder.
        place = folder if sink is not None else tmp_path / "elsewhere" / "run"
        driver = self.open_sink(place, sink=sink)
        now, last = driver.opened.destination, driver.opened.last_seq
        assert isinstance(now, str), f"destination is {now!r}; it is a text"
        assert now, "destination is empty; name the place, so that progress is kept for each"
        assert now != before, f"destination is {now!r} in both places; progress in one would count in the other"
        assert not last, f"sink_open says that record {last} is there, in a destination that has none"
        driver.write(sample(1, 12))
        driver.close()
        self.check_shows(folder, sample(1, 10), "What goes to another destination must change nothing here.")
        sink_here = self.make_sink(folder)
        with contextlib.chdir(tmp_path):
            again = Driver(sink_here, run_record(folder.name), Path(folder.name)).opened.destination
        assert again == before, (
            f"destination is {again!r} for a relative run folder and was {before!r} for the same, written in full; "
            "make it absolute, as `telemetry sync` is started from anywhere"
        )
        if sink is None:
            self.check_shows(place, sample(1, 12), "Take the destination from the options and the run folder.")

    def test_closing_twice_is_closing_once_also_of_a_run_without_a_point(self, tmp_path: Path) -> None:
        for folder, records in ((tmp_path / "run", sample(1, 9)), (tmp_path / "empty", [])):
            driver = self.open_sink(folder)
            driver.write(records)
            driver.close()
            driver.close()
            again = self.open_sink(folder)
            again.close()
            self.check_shows(folder, records, "A later `telemetry sync` closes the run again; that changes nothing.")

    def test_a_run_that_was_closed_goes_on_whatever_its_end_was(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        ends: list[Status] = ["preempted", "killed", "failed", "finished"]
        for number, status in enumerate(ends, 1):
            driver = self.open_sink(folder)
            driver.write_rest(sample(1, 5 * number))
            driver.close(status, reason="SIGTERM" if status == "preempted" else "")
        self.check_shows(folder, sample(1, 20), "A run that was closed is resumed, and its new points come too.")
