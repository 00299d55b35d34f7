"""The runs of the live page: found, read incrementally, and kept in memory."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.telemetry_fakes import DEAD, beat
from support.written_runs import NOON, WrittenRun, add_training
from telemetry import Metric, RunFolderError, read_receipt, read_run
from telemetry.reading.best_value import BestValue
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import Cursor, SinkProgress, write_progress
from telemetry.view import cached_run
from telemetry.view.run_entry import RunEntry
from telemetry.view.store import RunStore

METRICS = {
    "train/loss": Metric(main=True, better="lower"),
    "train/lr": Metric(),
    "val/loss": Metric(main=True, better="lower"),
    "val/R2": Metric(main=True, better="higher"),
    "val/E_mae": Metric(better="lower"),
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def run(runs: Path) -> WrittenRun:
    return WrittenRun(runs / "water", metrics=METRICS)


def alive(run: WrittenRun, attempt: int = 1) -> None:
    beat(run.folder, current_process(), attempt=attempt)


def only(store: RunStore) -> RunEntry:
    (entry,) = store.runs()
    return entry


def values(store: RunStore, entry: RunEntry, name: str) -> list[float]:
    curve = store.curves(entry.key, [name]).get(name)
    return [] if curve is None else curve.values.tolist()


class TestTable:
    def test_it_shows_the_state_of_a_run_before_its_curves_are_read(self, run: WrittenRun, runs: Path) -> None:
        run.points("val", 300, {"loss": 0.5})
        run.close()
        entry = only(RunStore([runs]))
        assert (entry.label, entry.header.name, entry.status, entry.step) == ("water", "water", "finished", 300)
        assert (entry.folder, entry.metrics["val/loss"], dict(entry.best)) == (run.folder, METRICS["val/loss"], {})

    def test_it_has_the_best_validation_values_of_main_metrics_by_direction(self, run: WrittenRun, runs: Path) -> None:
        for step, (loss, r2) in enumerate([(3.0, 0.5), (1.0, 0.9), (1.0, 0.7), (float("nan"), 0.9)], 1):
            run.points("val", step, {"loss": loss, "R2": r2, "E_mae": loss})
            run.points("train", step, {"loss": 0.1})
        store = RunStore([runs])
        store.refresh()
        assert only(store).best == {"val/loss": BestValue(value=1.0, step=2), "val/R2": BestValue(value=0.9, step=2)}

    def test_undeclared_metrics_are_found_in_the_points_until_an_attempt_declares_metrics(self, runs: Path) -> None:
        run = WrittenRun(runs / "other", metrics={})
        run.points("eval", 1, {"accuracy": 0.5})
        run.points("val", 1, {"loss": 2.0})
        store = RunStore([runs])
        store.refresh()
        assert list(only(store).metrics) == ["eval/accuracy", "val/loss"]
        assert only(store).best == {"val/loss": BestValue(value=2.0, step=1)}
        assert values(store, only(store), "eval/accuracy") == [0.5]
        run.points("eval", 2, {"f1": 0.7})
        store.refresh()
        assert list(only(store).metrics) == ["eval/accuracy", "val/loss", "eval/f1"]
        assert values(store, only(store), "eval/f1") == [0.7]
        run.begin(resume_step=2, metrics=METRICS, attempt=2)
        run.points("val", 3, {"loss": 1.0})
        store.refresh()
        assert dict(only(store).metrics) == METRICS
        assert values(store, only(store), "val/loss") == [2.0, 1.0]

    def test_metrics_declared_later_are_in_the_table_and_have_their_units(self, runs: Path) -> None:
        run = WrittenRun(runs / "other", metrics={}, params={"seed": 1})
        store = RunStore([runs])
        store.refresh()
        declared = {"train/loss": Metric(unit=""), "val/E": Metric(unit="eV", better="lower")}
        for number, (name, metric) in enumerate(declared.items(), 1):
            run.update(metrics={name: metric}, params={"lr": number})
            run.point(name, number, 0.5)
            store.refresh()
            assert list(only(store).metrics) == list(declared)[:number]
            assert values(store, only(store), name) == [0.5]
        assert dict(only(store).metrics) == declared
        assert only(store).best == {"val/E": BestValue(value=0.5, step=2)}
        assert only(store).header.params == {"seed": 1, "lr": 2}

    def test_metrics_declared_later_are_known_after_a_resume(self, run: WrittenRun, runs: Path) -> None:
        run.update(metrics={"val/E": Metric(unit="eV", main=True, better="lower")}, params={"lr": 1})
        run.points("val", 1, {"E": 0.5})
        store = RunStore([runs])
        store.refresh()
        run.begin(resume_step=1, attempt=2)
        run.points("val", 2, {"E": 0.25})
        store.refresh()
        assert values(store, only(store), "val/E") == [0.5, 0.25]
        assert only(store).metrics["val/E"].unit == "eV"
        assert only(store).best["val/E"].value == 0.25

    def test_superseded_values_and_alerts_do_not_count(self, run: WrittenRun, runs: Path) -> None:
        store = RunStore([runs])
        run.points("val", 100, {"loss": 2.0})
        run.points("val", 200, {"loss": 1.0})
        run.alert(200, "a spike")
        store.refresh()
        assert (only(store).best["val/loss"].value, len(only(store).alerts)) == (1.0, 1)
        run.begin(resume_step=100)
        run.points("val", 200, {"loss": 1.5})
        store.refresh()
        assert only(store).best == {"val/loss": BestValue(value=1.5, step=200)}
        assert list(only(store).alerts) == []

    @pytest.mark.parametrize("prepare", [lambda run: run.close("failed"), alive, lambda run: beat(run.folder, DEAD)])
    def test_the_status_is_that_of_a_full_reading(self, run: WrittenRun, runs: Path, prepare: Any) -> None:
        run.points("val", 1, {"loss": 1.0})
        prepare(run)
        store = RunStore([runs])
        store.refresh()
        assert only(store).status == read_run(run.folder).status != "unseen"

    def test_it_shows_the_delivery_to_each_sink(self, run: WrittenRun, runs: Path) -> None:
        for step in (1, 2, 3):
            run.points("train", step, {"loss": 1.0})
        run.close()
        progress = SinkProgress(
            state="retrying", destination="x", view="look", cursors={"x": Cursor(accepted=1)}, last_error="no route"
        )
        write_progress(run.folder, "wandb", progress)
        store = RunStore([runs])
        store.refresh()
        (sink,) = only(store).sinks
        assert (sink.name, sink.state, sink.delivered, sink.pending) == ("wandb", "retrying", 1, 2)
        assert (sink.error, sink.view, sink.is_behind) == ("no route", "look", True)
        # A delivery continues after the end of the run.
        write_progress(run.folder, "wandb", SinkProgress(state="closed", cursors={"": Cursor(accepted=3)}))
        store.refresh()
        (sink,) = only(store).sinks
        assert (sink.state, sink.delivered, sink.pending, sink.error) == ("closed", 3, 0, "")

    def test_the_delivery_of_a_resumed_run_does_not_include_superseded_records(
        self, run: WrittenRun, runs: Path
    ) -> None:
        store = RunStore([runs])
        alive(run)
        for step in range(1, 11):
            run.points("train", step, {"loss": 1.0})
        write_progress(run.folder, "wandb", SinkProgress(cursors={"": Cursor(accepted=2)}))
        store.refresh()
        assert only(store).sinks[0].pending == 8
        # The page may read the run between the first records of the new attempt.
        run.begin(attempt=2)
        store.refresh()
        run.resume(4)
        store.refresh()
        run.points("train", 5, {"loss": 1.0})
        store.refresh()
        # Points 3 and 4, the resume, and the new point 5.
        (sink,) = only(store).sinks
        assert (sink.delivered, sink.pending, only(store).step) == (2, 4, 5)
        (receipt,) = read_receipt(run.folder).sinks
        assert (receipt.delivered, receipt.pending) == (2, 4)

    def test_a_run_of_an_earlier_version_has_best_values(self, runs: Path) -> None:
        run = WrittenRun(runs / "old")
        add_training(run)
        store = RunStore([runs])
        store.refresh()
        assert only(store).best["val/loss"] == BestValue(value=float(np.exp(-2000 / 300)), step=2000)


class TestRuns:
    def test_the_newest_comes_first(self, runs: Path) -> None:
        for name, started in (("b", 1), ("a", 3), ("c", 2)):
            WrittenRun(runs / name, started=started)
        assert [entry.header.run_id for entry in RunStore([runs]).runs()] == ["a", "c", "b"]

    def test_labels_and_keys_are_unique(self, tmp_path: Path) -> None:
        folders = [tmp_path / part / "run" for part in ("x", "y")]
        for folder in folders:
            WrittenRun(folder)
        entries = RunStore(folders).runs()
        assert {entry.label for entry in entries} == set(map(str, folders))
        keys = {entry.key for entry in entries}
        assert len(keys) == 2
        assert all(key.isascii() and key.isalnum() for key in keys)
        assert {entry.key for entry in RunStore(folders).runs()} == keys

    def test_a_run_given_twice_is_listed_once(
        self, run: WrittenRun, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(runs)
        assert len(RunStore([runs, run.folder, Path("water"), Path()]).runs()) == 1

    def test_a_run_of_any_name_has_a_key(self, runs: Path) -> None:
        WrittenRun(runs / os.fsdecode(b"\xff<b>&"), run_id="x", name="x")
        assert only(RunStore([runs])).key.isalnum()

    def test_new_runs_appear(self, runs: Path) -> None:
        runs.mkdir()
        store = RunStore([runs])
        store.refresh()
        assert store.runs() == []
        WrittenRun(runs / "first").points("val", 1, {"loss": 0.5})
        store.refresh()
        assert only(store).best["val/loss"].value == 0.5

    def test_a_missing_folder_is_an_error(self, runs: Path) -> None:
        with pytest.raises(RunFolderError, match="there is no folder"):
            RunStore([runs])

    def test_an_unknown_key_is_an_error(self, run: WrittenRun, runs: Path) -> None:
        store = RunStore([runs])
        for call in (lambda: store.curves("x", []), lambda: store.version("x")):
            with pytest.raises(KeyError):
                call()


class TestCurves:
    def test_they_are_those_of_a_full_reading(self, run: WrittenRun, runs: Path) -> None:
        for step in range(1, 501):
            run.points("train", step, {"loss": 1 / step, "lr": 0.1})
            if step % 50 == 0:
                run.points("val", step, {"loss": 2 / step, "E_mae": float("nan")})
        store, full = RunStore([runs]), read_run(run.folder).curves
        key = only(store).key
        for names in (["val/loss"], ["train/lr", "val/E_mae"], ["val/absent", "train/loss"]):
            found = store.curves(key, names)
            assert list(found) == [name for name in names if name in full]
            for name, curve in found.items():
                np.testing.assert_array_equal(curve.values, full[name].values)
                np.testing.assert_array_equal(curve.steps, full[name].steps)
                np.testing.assert_array_equal(curve.times, full[name].times)

    def test_what_is_appended_is_read_and_the_version_grows(self, run: WrittenRun, runs: Path) -> None:
        alive(run)
        store = RunStore([runs])
        key = only(store).key
        assert values(store, only(store), "train/loss") == []
        versions = [store.version(key)]
        for step in (1, 2, 3):
            run.points("train", step, {"loss": float(step)})
            store.refresh()
            versions.append(store.version(key))
            assert values(store, only(store), "train/loss") == [float(n) for n in range(1, step + 1)]
        assert versions == sorted(set(versions))
        store.refresh()
        assert store.version(key) == versions[-1]

    def test_reading_other_curves_does_not_change_the_version(self, run: WrittenRun, runs: Path) -> None:
        run.points("train", 1, {"loss": 0.5, "lr": 0.1})
        store = RunStore([runs])
        store.refresh()
        version = store.version(only(store).key)
        assert values(store, only(store), "train/loss") == [0.5]
        assert values(store, only(store), "train/lr") == [0.1]
        assert store.version(only(store).key) == version

    def test_only_what_is_appended_is_read(self, run: WrittenRun, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alive(run)
        for step in range(1, 5001):
            run.points("train", step, {"loss": 0.5})
        store = RunStore([runs])
        store.curves(only(store).key, ["train/loss"])
        run.points("train", 5001, {"loss": 0.5})
        monkeypatch.setattr("telemetry.journal.segment_lines.os", counting := CountingOs())
        store.refresh()
        assert len(values(store, only(store), "train/loss")) == 5001
        # The heads of the segments, to see whether the journal is still the same one, and its new end.
        assert counting.bytes_read < 500_000 < run.journal.stat().st_size

    def test_an_ended_run_is_not_read_again(self, run: WrittenRun, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run.points("train", 1, {"loss": 0.5})
        run.close()
        store = RunStore([runs])
        store.refresh()
        monkeypatch.setattr("telemetry.journal.segment_lines.os", counting := CountingOs())
        store.refresh()
        assert counting.bytes_read == 0

    def test_a_resume_rewinds_them(self, run: WrittenRun, runs: Path) -> None:
        run.close("preempted")
        store = RunStore([runs])
        alive(run)
        for step in (100, 200, 300):
            run.points("train", step, {"loss": float(step)})
        assert values(store, only(store), "train/loss") == [100, 200, 300]
        run.begin(resume_step=100, attempt=2)
        run.points("train", 200, {"loss": -200.0})
        store.refresh()
        assert values(store, only(store), "train/loss") == [100, -200]
        assert (only(store).header.attempt, only(store).step) == (2, 200)

    def test_an_ended_run_that_is_resumed_is_read_again(self, run: WrittenRun, runs: Path) -> None:
        run.points("val", 100, {"loss": 1.0})
        run.close("preempted")
        store = RunStore([runs])
        assert values(store, only(store), "val/loss") == [1.0]
        run.begin(resume_step=100, attempt=2)
        alive(run, attempt=2)
        run.points("val", 200, {"loss": 0.5})
        store.refresh()
        assert (only(store).status, values(store, only(store), "val/loss")) == ("running", [1.0, 0.5])

    def test_metrics_declared_by_a_new_attempt_are_in_the_table(self, run: WrittenRun, runs: Path) -> None:
        store = RunStore([runs])
        run.points("val", 100, {"loss": 1.0})
        store.refresh()
        metrics = METRICS | {"val/F_rmse": Metric(main=True, better="lower")}
        run.begin(resume_step=100, attempt=2, metrics=metrics)
        run.points("val", 200, {"loss": 0.5, "F_rmse": 7.0})
        store.refresh()
        assert {name: best.value for name, best in only(store).best.items()} == {"val/loss": 0.5, "val/F_rmse": 7.0}

    def test_a_line_that_is_being_written_is_read_once_it_is_complete(self, run: WrittenRun, runs: Path) -> None:
        alive(run)
        run.points("train", 1, {"loss": 0.5})
        whole = run.journal.read_bytes()
        run.journal.write_bytes(whole[:-30])
        store = RunStore([runs])
        assert values(store, only(store), "train/loss") == []
        run.raw(whole[-30:])
        store.refresh()
        assert values(store, only(store), "train/loss") == [0.5]


class TestFaults:
    @pytest.fixture
    def other(self, runs: Path) -> WrittenRun:
        other = WrittenRun(runs / "other", started=1)
        other.points("val", 1, {"loss": 0.25})
        return other

    @staticmethod
    def check_other_is_read(store: RunStore, other: WrittenRun) -> None:
        other.points("val", 2, {"loss": 0.125})
        store.refresh()
        entry = next(entry for entry in store.runs() if entry.folder == other.folder)
        assert (entry.label, entry.error, entry.best["val/loss"].value) == ("other", "", 0.125)

    def test_a_folder_that_disappears_is_reported_and_keeps_its_curves(
        self, run: WrittenRun, runs: Path, other: WrittenRun
    ) -> None:
        run.points("val", 1, {"loss": 0.5})
        store = RunStore([runs])
        store.refresh()
        shutil.rmtree(run.folder)
        self.check_other_is_read(store, other)
        entry = store.runs()[0]
        assert "no run in" in entry.error
        assert values(store, entry, "val/loss") == [0.5]
        version = store.version(entry.key)
        store.refresh()
        assert store.version(entry.key) == version

    def test_a_folder_that_becomes_unreadable_recovers(self, run: WrittenRun, runs: Path, other: WrittenRun) -> None:
        store = RunStore([runs])
        store.refresh()
        # A link to itself cannot be listed, even by root.
        run.folder.rename(runs.parent / "elsewhere")
        run.folder.symlink_to(run.folder)
        self.check_other_is_read(store, other)
        assert "cannot list" in store.runs()[0].error
        run.folder.unlink()
        (runs.parent / "elsewhere").rename(run.folder)
        run.points("val", 1, {"loss": 0.5})
        store.refresh()
        assert (store.runs()[0].error, store.runs()[0].best["val/loss"].value) == ("", 0.5)

    def test_a_run_of_a_newer_version_is_reported(self, runs: Path, other: WrittenRun) -> None:
        WrittenRun(runs / "newer", schema=99)
        store = RunStore([runs])
        store.refresh()
        entry = next(entry for entry in store.runs() if entry.folder.name == "newer")
        assert "schema 99" in entry.error
        assert (entry.label, entry.header.metrics) == ("newer", {})
        self.check_other_is_read(store, other)

    @pytest.mark.parametrize("in_place", [True, False])
    def test_a_replaced_journal_is_read_from_its_beginning(
        self, run: WrittenRun, runs: Path, tmp_path: Path, *, in_place: bool
    ) -> None:
        alive(run)
        run.points("val", 1, {"loss": 0.5})
        store = RunStore([runs])
        assert values(store, only(store), "val/loss") == [0.5]
        new = WrittenRun(tmp_path / "new", metrics=METRICS, run_id="new", started=9)
        for step in range(1, 6):
            new.points("val", step, {"loss": float(step)})
        if in_place:
            run.journal.write_bytes(new.journal.read_bytes())
        else:
            new.journal.replace(run.journal)
        store.refresh()
        assert values(store, only(store), "val/loss") == [1, 2, 3, 4, 5]
        assert only(store).header.run_id == "new"

    def test_damage_does_not_hide_the_rest(self, run: WrittenRun, runs: Path) -> None:
        run.points("val", 1, {"loss": 0.5})
        run.raw(b"\0" * 5000 + b'\n{"kind":"scalars","seq":2}\n')
        run.points("val", 3, {"loss": 0.25}, seq=3)
        beat(run.folder, DEAD)
        store = RunStore([runs])
        assert values(store, only(store), "val/loss") == [0.5, 0.25]


class TestMemory:
    def test_curves_requested_least_recently_are_freed_and_read_again(self, runs: Path) -> None:
        for name in "abcd":
            run = WrittenRun(runs / name, metrics=METRICS)
            for step in range(1, 101):
                run.points("train", step, {"loss": 0.5})
            run.close()
        # Each curve needs 2,500 bytes.
        store = RunStore([runs], max_bytes=6000)
        keys = [entry.key for entry in store.runs()]
        for key in keys * 2:
            assert len(store.curves(key, ["train/loss"])["train/loss"]) == 100
        store.refresh()
        assert len(store.curves(keys[0], ["train/loss"])["train/loss"]) == 100

    def test_a_run_that_needs_more_than_the_limit_is_shown(self, run: WrittenRun, runs: Path) -> None:
        alive(run)
        store = RunStore([runs], max_bytes=0)
        for step in (1, 2, 3):
            run.points("val", step, {"loss": 0.5})
            store.refresh()
            assert len(values(store, only(store), "val/loss")) == step


class TestThreads:
    def test_cached_curves_do_not_wait_for_a_file(
        self, run: WrittenRun, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        WrittenRun(runs / "other", started=1)
        run.points("val", 1, {"loss": 0.5})
        store = RunStore([runs], max_bytes=0)
        entry = store.runs()[0]
        store.curves(entry.key, ["val/loss"])
        blocked, unblocked = threading.Event(), threading.Event()

        def block(folder: Path) -> None:
            blocked.set()
            assert unblocked.wait(60)

        monkeypatch.setattr(cached_run, "folder_state", block)
        thread = threading.Thread(target=store.refresh)
        thread.start()
        try:
            assert blocked.wait(60)
            assert values(store, entry, "val/loss") == [0.5]
            assert (len(store.runs()), store.version(entry.key) > 0) == (2, True)
        finally:
            unblocked.set()
            thread.join()

    def test_sessions_see_consistent_curves_while_the_run_grows(self, run: WrittenRun, runs: Path) -> None:
        alive(run)
        store = RunStore([runs], max_bytes=10_000)
        key, errors, written = only(store).key, [], threading.Event()

        def session(names: Sequence[str]) -> None:
            while not written.is_set():
                found = store.curves(key, names).values()
                errors.extend(each for each in found if each.values.tolist() != each.steps.tolist())

        threads = [
            threading.Thread(target=session, args=(names,)) for names in (["train/loss"], ["train/lr", "val/loss"])
        ]
        for thread in threads:
            thread.start()
        for step in range(1, 31):
            run.points("train", step, {"loss": float(step), "lr": float(step)})
            run.points("val", step, {"loss": float(step)})
            store.refresh()
        written.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(values(store, only(store), "train/loss")) == 30
        assert only(store).time == NOON + 30_000


class CountingOs:
    """The module ``os``, counting the bytes that are read."""

    bytes_read = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def pread(self, *args: int) -> bytes:
        data = os.pread(*args)  # type: ignore[arg-type] # passed on
        self.bytes_read += len(data)
        return data
