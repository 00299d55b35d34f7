"""``read_run`` and ``RunReader``, checked against the lines of the journal."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.segment_files import numbered, write
from support.telemetry_fakes import DEAD, beat, journal_lines
from support.written_runs import NOON, WrittenRun
from telemetry import JournalError, Metric, PackageNotInstalled, RunNotFound, read_run
from telemetry.reading.run import Run, RunReader
from telemetry.records import SEQ_PER_SEGMENT, Resumed
from telemetry.run_folder import regular_file
from telemetry.run_folder.process_identity import current_process


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def columns(folder: Path, name: str) -> tuple[list[int], list[int], list[float]]:
    """Return the steps, times and values of a metric, from the lines of the journal."""
    stream, _, metric = name.partition("/")
    lines = [x for x in journal_lines(folder) if x["kind"] == "scalars" and x["stream"] == stream]
    lines = [x for x in lines if metric in x["values"]]
    return [x["step"] for x in lines], [x["time"] for x in lines], [float(x["values"][metric]) for x in lines]


def test_the_curves_match_the_journal(run: WrittenRun) -> None:
    rng = np.random.default_rng(1)
    for step in range(200, 2001, 200):
        run.points("train", step, {"loss": rng.normal(), "E_rmse": 10 ** rng.normal(), "lr": 1e-3})
        if not step % 600:
            run.points("val", step, {"loss": rng.normal(), "gfn1/E_rmse": rng.normal()})
    run.close()
    read = read_run(run.folder)
    assert list(read.curves) == ["train/loss", "train/E_rmse", "train/lr", "val/loss", "val/gfn1/E_rmse"]
    for name, curve in read.curves.items():
        steps, times, values = columns(run.folder, name)
        assert (curve.steps.dtype, curve.values.dtype, curve.times.dtype) == ("int64", "float64", "datetime64[ms]")
        np.testing.assert_array_equal(curve.steps, steps)
        np.testing.assert_array_equal(curve.times, np.array(times, dtype="datetime64[ms]"))
        np.testing.assert_array_equal(curve.values, values)
        assert len(curve) == len(steps)
        assert not curve.superseded.any()
    assert (read.curves["train/E_rmse"].unit, read.curves["train/E_rmse"].label) == ("kcal/mol", "RMSE of energy")
    assert (read.header.run_id, read.status, read.alerts) == ("water", "finished", [])


def test_a_path_may_be_a_string(run: WrittenRun) -> None:
    run.point("train/loss", 1, 0.5)
    assert read_run(str(run.folder)).curves["train/loss"].values.tolist() == [0.5]


def test_non_finite_values_are_kept(run: WrittenRun) -> None:
    for step, value in enumerate([1.0, math.nan, math.inf, -math.inf], 1):
        run.point("train/loss", step, value)
    np.testing.assert_array_equal(
        read_run(run.folder).curves["train/loss"].values, [1.0, math.nan, math.inf, -math.inf]
    )


def test_superseded_points_and_alerts_are_returned_only_on_request(run: WrittenRun) -> None:
    for step in (100, 200, 300):
        run.point("train/loss", step, float(step))
    run.alert(300, "a spike")
    run.begin(resume_step=100)
    for step in (200, 300):
        run.point("train/loss", step, -float(step))
    read = read_run(run.folder)
    assert read.curves["train/loss"].values.tolist() == [100, -200, -300]
    assert (read.alerts, read.skipped.superseded) == ([], 3)
    everything = read_run(run.folder, superseded=True)
    assert everything.curves["train/loss"].values.tolist() == [100, 200, 300, -200, -300]
    assert everything.curves["train/loss"].superseded.tolist() == [False, True, True, False, False]
    assert [alert.title for alert in everything.alerts] == ["a spike"]


def test_a_run_resumed_while_it_is_followed_has_the_same_curves_as_when_read_afterwards(
    run: WrittenRun,
) -> None:
    reader = RunReader(run.folder)
    for step in (100, 200, 300):
        run.point("train/loss", step, float(step))
    run.alert(300, "a spike")
    assert reader.read(live=True)
    assert reader.run().curves["train/loss"].steps.tolist() == [100, 200, 300]
    run.begin(resume_step=100)
    run.point("train/loss", 200, -200.0)
    assert reader.read(live=True)
    assert not reader.read(live=True)
    followed, afterwards = reader.run(), read_run(run.folder)
    assert followed.alerts == afterwards.alerts == []
    for read in (followed, afterwards):
        assert read.curves["train/loss"].values.tolist() == [100, -200]
    assert followed.header.seq > 0


def test_a_resume_is_followed_even_if_its_segment_was_read_before_its_first_record(run: WrittenRun) -> None:
    reader = RunReader(run.folder)
    for step in (100, 200):
        run.point("train/loss", step, float(step))
    run.begin(attempt=2)
    reader.read(live=True)
    run.resume(100)
    run.point("train/loss", 150, -150.0)
    reader.read(live=True)
    assert reader.run().curves["train/loss"].values.tolist() == [100, -150]


def test_damage_is_counted_and_the_rest_is_read(run: WrittenRun) -> None:
    run.point("train/loss", 1, 1.0)
    run.raw(b'{"kind":"scalars","seq":2}\n')
    run.point("train/loss", 2, 2.0, seq=3)
    run.raw(b'{"kind":"scal')
    read = read_run(run.folder)
    assert read.curves["train/loss"].steps.tolist() == [1, 2]
    assert (read.skipped.damaged, read.skipped.lost) == (2, 1)


def test_an_undeclared_metric_has_a_curve_without_a_unit(run: WrittenRun) -> None:
    run.point("other/x", 1, 1.0)
    curve = read_run(run.folder).curves["other/x"]
    assert (curve.unit, curve.label) == ("", "")


def test_a_metric_declared_only_by_an_earlier_attempt_keeps_its_unit(run: WrittenRun) -> None:
    run.point("train/E_rmse", 1, 1.0)
    run.begin(resume_step=1, metrics={"train/new": Metric(unit="e")})
    run.point("train/new", 2, 1.0)
    assert {name: curve.unit for name, curve in read_run(run.folder).curves.items()} == {
        "train/E_rmse": "kcal/mol",
        "train/new": "e",
    }


def test_what_was_added_later_is_part_of_the_description(run: WrittenRun) -> None:
    run.update(metrics={"eval/accuracy": Metric(unit="%")}, params={"lr": 1})
    run.begin(resume_step=1, attempt=2)
    run.update(metrics={"eval/f1": Metric(unit="1")}, params={"lr": 2})
    run.update(params={"seed": 3})
    run.points("eval", 2, {"accuracy": 50.0, "f1": 0.5})
    read = read_run(run.folder)
    assert {name: curve.unit for name, curve in read.curves.items()} == {"eval/accuracy": "%", "eval/f1": "1"}
    assert read.header.params == {"lr": 2, "seed": 3}
    assert "eval/f1" in read.header.metrics


@pytest.mark.parametrize(
    ("prepare", "status"),
    [
        (lambda run: run.close("preempted"), "preempted"),
        (lambda run: beat(run.folder, current_process()), "running"),
        (lambda run: beat(run.folder, DEAD), "killed"),
        (lambda run: None, "unseen"),
    ],
)
def test_the_status_comes_from_the_journal_or_from_the_trainer(run: WrittenRun, prepare: Any, status: str) -> None:
    run.point("train/loss", 1, 1.0)
    prepare(run)
    assert read_run(run.folder).status == status


def test_a_resumed_run_is_no_longer_closed(run: WrittenRun) -> None:
    run.close("preempted")
    run.begin(resume_step=0)
    beat(run.folder, current_process(), attempt=2)
    assert read_run(run.folder).status == "running"


def test_a_run_without_points_has_no_curves(run: WrittenRun) -> None:
    read = read_run(run.folder)
    assert (dict(read.curves), read.alerts) == ({}, [])


def test_the_largest_numbers_are_read(run: WrittenRun) -> None:
    run.point("train/loss", (1 << 62) // 1001, 1.7976931348623157e308)
    assert read_run(run.folder).curves["train/loss"].values.tolist() == [1.7976931348623157e308]


def test_a_read_only_folder_is_read_and_nothing_is_written(run: WrittenRun) -> None:
    run.point("train/loss", 1, 1.0)
    run.folder.chmod(0o500)
    try:
        before = sorted(path.name for path in run.folder.iterdir())
        read_run(run.folder)
        assert sorted(path.name for path in run.folder.iterdir()) == before == ["journal-0.jsonl"]
    finally:
        run.folder.chmod(0o700)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="no run in"):
        read_run(tmp_path)


@pytest.mark.parametrize("fields", [{"schema": 99}])
def test_a_run_written_by_a_newer_version_is_an_error(tmp_path: Path, fields: dict[str, Any]) -> None:
    run = WrittenRun(tmp_path / "run", **fields)
    with pytest.raises(JournalError, match="schema 99"):
        read_run(run.folder)


class TestFrame:
    def test_it_has_one_row_per_value(self, run: WrittenRun) -> None:
        pd = pytest.importorskip("pandas")
        for step in (1, 2):
            run.points("train", step, {"loss": step / 2, "E_rmse": float(step)})
        run.point("val/loss", 2, math.nan)
        frame = read_run(run.folder).frame()
        assert list(frame.columns) == ["run", "stream", "step", "time", "name", "value", "unit", "superseded"]
        assert frame["name"].tolist() == ["train/loss", "train/loss", "train/E_rmse", "train/E_rmse", "val/loss"]
        assert frame["stream"].tolist() == ["train"] * 4 + ["val"]
        assert frame["unit"].tolist() == ["1", "1", "kcal/mol", "kcal/mol", "1"]
        assert frame["time"].tolist()[0] == pd.Timestamp(NOON + 1000, unit="ms")
        wide = frame.pivot(index="step", columns="name", values="value")
        assert wide["train/loss"].tolist() == [0.5, 1.0]
        assert math.isnan(wide["val/loss"][2])

    def test_steps_that_were_published_twice_can_be_pivoted_as_documented(self, run: WrittenRun) -> None:
        pytest.importorskip("pandas")
        for value in (0.5, 0.25):
            run.points("train", 1, {"loss": value})
        frame = read_run(run.folder).frame()
        assert len(frame) == 2
        (line,) = [line.strip() for line in (Run.frame.__doc__ or "").splitlines() if ".pivot(" in line]
        assert eval(line, {"frame": frame})["train/loss"].tolist() == [0.25]  # noqa: S307 - our own docstring

    def test_it_is_empty_for_a_run_without_points(self, run: WrittenRun) -> None:
        pytest.importorskip("pandas")
        frame = read_run(run.folder).frame()
        assert (len(frame), str(frame["value"].dtype), str(frame["step"].dtype)) == (0, "float64", "int64")

    def test_without_pandas_the_error_contains_the_install_command(
        self, run: WrittenRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(PackageNotInstalled, match="pip install pandas"):
            read_run(run.folder).frame()


def test_many_resumes_in_a_segment_are_read_without_opening_it_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a journal made to keep readers busy: each search for the first record would pass all damaged lines.
    later = [Resumed(seq=SEQ_PER_SEGMENT + n, time=7, step=5, attempt=2) for n in range(1, 200)]
    write(tmp_path, 0, numbered(0, 1, 9))
    write(tmp_path, 1, [b"damaged\n" * 10, *later])
    opened = 0

    class CountingOs:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def open(self, *arguments: Any) -> int:
            nonlocal opened
            opened += 1
            return os.open(*arguments)

    monkeypatch.setattr(regular_file, "os", CountingOs())
    assert read_run(tmp_path).curves["train/loss"].steps.tolist() == [1, 2, 3, 4, 5]
    assert opened < 20
