"""Reading some metrics gives exactly the values that reading all metrics gives, whatever happened to the journal."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from support import golden_runs
from support.segment_files import sealed
from support.written_runs import WrittenRun
from telemetry import MetricNotFound, RunNotFound, read_run
from telemetry.journal.reader import JournalReader
from telemetry.journal.segments import segment_path, segments
from telemetry.journal.stream_search import PassedScalars
from telemetry.reading.run import Run, RunReader
from telemetry.records import SEQ_PER_SEGMENT

NAMES = ("val/loss", "val/gfn1/E_rmse", "train/lr", 'odd "stream"/x', "train/part/x")


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def assert_same(filtered: Run, full: Run, names: tuple[str, ...]) -> None:
    """Check that a filtered reading has the content of a full one, restricted to some metrics."""
    assert set(filtered.curves) == set(full.curves) & set(names)
    for name, curve in filtered.curves.items():
        for column in ("steps", "times", "values", "superseded"):
            np.testing.assert_array_equal(getattr(curve, column), getattr(full.curves[name], column))
        assert (curve.unit, curve.label) == (full.curves[name].unit, full.curves[name].label)
    assert (filtered.alerts, filtered.status, filtered.header) == (full.alerts, full.status, full.header)


def add_points(run: WrittenRun, rng: random.Random, step: int) -> int:
    """Append points of several streams, most of them of ``train``; return the next iteration."""
    for _ in range(rng.randrange(30)):
        step += rng.randrange(3)
        value = rng.choice([rng.random(), math.nan, -math.inf])
        run.points("train", step, {"loss": value, "lr": 0.1})
        if rng.random() < 0.1:
            run.points("val", step, {"loss": value, "gfn1/E_rmse": rng.random()})
        if rng.random() < 0.05:
            run.points('odd "stream"', step, {"x": value})
        if rng.random() < 0.1:
            for _ in range(3):
                run.points("train/part", step, {"x": value})
        if rng.random() < 0.02:
            run.alert(step, '"stream":"val"')
    return step


def write_again(run: WrittenRun, rng: random.Random) -> None:
    """Start a segment as after a disk fault: some of the last records are lost and written again."""
    lines = [line for line in run.journal.read_bytes().splitlines(keepends=True)[1:] if line.endswith(b"}\n")]
    again = lines[max(0, len(lines) - rng.randrange(20)) :]
    if again and rng.random() < 0.5:
        data = run.journal.read_bytes()
        run.journal.write_bytes(data[: max(data.find(b"\n") + 1, len(data) - rng.randrange(1, 400))])
    run.begin()
    run.raw(b"".join(again))


def damage(path: Path, rng: random.Random) -> None:
    """Damage a segment after its run record: change, repeat, remove or insert bytes or lines."""
    head, _, body = path.read_bytes().partition(b"\n")
    lines = body.splitlines(keepends=True)
    if not lines:
        return
    place, kind = rng.randrange(len(lines)), rng.randrange(6)
    if kind == 0:
        at = rng.randrange(len(lines[place]))
        lines[place] = lines[place][:at] + bytes([rng.randrange(256)]) + lines[place][at + 1 :]
    elif kind == 1:
        del lines[place]
    elif kind == 2:
        lines.insert(place, rng.choice([b"\0" * 300, b"\n", b'{"kind":"scalars","seq":1,"time":1,"stream":"train"\n']))
    elif kind == 3:
        lines[place : place + 5] = lines[place : place + 5] * 2
    elif kind == 4:
        length = sum(map(len, lines[place : place + 3]))
        lines[place : place + 3] = [b"\0" * (length - 1) + b"\n"]
    else:
        lines[place] = lines[place].replace(b'"val"', b'"train"')
    path.write_bytes(head + b"\n" + b"".join(lines))


def events(run: WrittenRun, rng: random.Random) -> Iterator[None]:
    """Write a journal with resumes, disk faults and damage; pause where it may be read."""
    step = 0
    for _ in range(rng.randrange(2, 8)):
        step = add_points(run, rng, step)
        yield
        kind = rng.random()
        if kind < 0.25:
            step = rng.randrange(step + 1)
            run.begin(resume_step=step)
        elif kind < 0.5:
            write_again(run, rng)
        elif kind < 0.6:
            run.close("preempted")
    yield


@pytest.mark.parametrize("seed", range(60))
def test_the_values_are_those_of_an_unfiltered_reading(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    run = WrittenRun(tmp_path / "run")
    names = tuple(rng.sample(NAMES, rng.randrange(len(NAMES) + 1)))
    followed = [RunReader(run.folder, names=names), RunReader(run.folder)]
    for _ in events(run, rng):
        for reader in followed:
            reader.read(live=True)
    for reader in followed:
        reader.read(live=False)
    assert_same(followed[0].run(), followed[1].run(), names)
    for _ in range(3):
        for superseded in (False, True):
            filtered = RunReader(run.folder, names=names, superseded=superseded)
            filtered.read(live=False)
            full = read_run(run.folder, superseded=superseded)
            assert_same(filtered.run(), full, names)
        damage(segment_path(run.folder, rng.choice(segments(run.folder))), rng)


@pytest.mark.parametrize("name", golden_runs.NAMES)
def test_runs_of_earlier_versions_are_read_exactly(name: str) -> None:
    (folder,) = golden_runs.V1.glob(f"{name}*")
    full = read_run(folder)
    for pattern in ("val/*", "train/*", "*"):
        filtered = read_run(folder, metrics=[pattern])
        assert_same(filtered, full, tuple(n for n in full.curves if fnmatchcase(n, pattern)))


@pytest.mark.parametrize("seed", range(20))
def test_without_damage_all_counts_are_those_of_an_unfiltered_reading(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    run = WrittenRun(tmp_path / "run")
    for _ in events(run, rng):
        pass
    filtered, full = RunReader(run.folder, names=["val/loss"]), RunReader(run.folder)
    for reader in (filtered, full):
        reader.read(live=False)
    assert filtered.records.seqs == full.records.seqs
    assert (filtered.records.step, filtered.time) == (full.records.step, full.time)
    assert filtered.run().skipped == full.run().skipped


def test_points_of_other_streams_are_not_decoded(run: WrittenRun) -> None:
    for step in range(1, 1001):
        run.points("train", step, {"loss": 0.5})
        if step % 500 == 0:
            run.points("val", step, {"loss": 0.5})
    records = JournalReader(run.folder, streams=["val"]).read(1000, live=False)
    assert len(records) < 10
    assert sum(1 + record.passed if isinstance(record, PassedScalars) else 1 for record in records) == 1002


def test_a_block_with_a_missing_point_is_decoded(run: WrittenRun) -> None:
    for number in (1, 2, 3, 5, 6):
        run.points("train", number, {"loss": 0.5}, seq=number)
    reader = JournalReader(run.folder, streams=[])
    assert [record.seq for record in reader.read(1000, live=False)] == [1, 2, 3, 5, 6]
    assert reader.skipped.lost == 1


def test_repeated_points_are_counted(run: WrittenRun) -> None:
    for last in (9, 10):
        for number in range(1, 9):
            run.points("train", number, {"loss": 0.5}, seq=number)
        run.points("val", last, {"loss": 0.5}, seq=last)
    for streams in (None, ["val"]):
        reader = JournalReader(run.folder, streams=streams)
        assert reader.read(1000, live=False)[-1].seq == 10
        assert reader.skipped.repeated == 8


def test_an_intact_line_in_another_layout_is_decoded(run: WrittenRun) -> None:
    run.points("train", 1, {"loss": 0.5})
    run.raw(sealed(b'{"seq":2,"kind":"scalars","values":{"loss":0.25},"step":2,"time":7,"stream":"val"'))
    run.points("train", 3, {"loss": 0.5}, seq=3)
    reader = RunReader(run.folder, names=["val/loss"])
    reader.read(live=False)
    assert reader.run().curves["val/loss"].values.tolist() == [0.25]


class TestPatterns:
    def test_the_metrics_that_match_are_read(self, run: WrittenRun) -> None:
        run.points("train", 1, {"loss": 0.5, "lr": 0.1})
        run.points("val", 1, {"loss": 0.25, "E_rmse": 1.0, "gfn1/E_rmse": 2.0})
        assert list(read_run(run.folder, metrics=["val/*"]).curves) == ["val/loss", "val/E_rmse", "val/gfn1/E_rmse"]
        assert list(read_run(run.folder, metrics=["loss"]).curves) == ["train/loss", "val/loss"]
        assert list(read_run(run.folder, metrics=["gfn1/E_rmse", "lr"]).curves) == ["train/lr", "val/gfn1/E_rmse"]

    def test_a_metric_that_no_attempt_declares_is_an_error(self, run: WrittenRun) -> None:
        with pytest.raises(MetricNotFound, match="val/loss"):
            read_run(run.folder, metrics=["val/los"])

    def test_a_folder_without_a_run_is_reported_as_such(self, tmp_path: Path) -> None:
        with pytest.raises(RunNotFound):
            read_run(tmp_path, metrics=["val/loss"])

    def test_a_metric_declared_by_an_earlier_attempt_is_read(self, run: WrittenRun) -> None:
        run.point("val/loss", 1, 0.5)
        run.begin(resume_step=1, metrics={})
        assert len(read_run(run.folder, metrics=["val/loss"]).curves["val/loss"]) == 1


def test_the_records_of_a_large_journal_are_counted_across_chunks(run: WrittenRun) -> None:
    for step in range(1, 20_001):
        run.points("train", step, {"loss": 0.5, "E_rmse": 1.5})
    reader = RunReader(run.folder, names=["val/loss"])
    reader.read(live=False)
    assert list(reader.records.seqs) == list(range(1, 20_001))
    assert reader.records.seqs[-1] < SEQ_PER_SEGMENT
