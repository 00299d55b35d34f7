"""The summary of a run, checked against functions that read the whole journal."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Literal

import pytest

from support.telemetry_fakes import DEAD, beat, journal_lines
from support.written_runs import NOON, WrittenRun
from telemetry import Metric, read_receipt, read_run
from telemetry.reading.best_value import BestValue
from telemetry.reading.run_summary import summarize
from telemetry.run_folder.sink_progress import SinkProgress, progress_path, write_progress


def best_by_hand(folder: Path, name: str) -> tuple[float, int] | None:
    """Return the lowest finite value that is not superseded and its iteration, from the lines of the journal."""
    stream, _, metric = name.partition("/")
    lines = journal_lines(folder)
    found = []
    for line in lines:
        if line["kind"] == "scalars" and line["stream"] == stream and metric in line["values"]:
            later = [x for x in lines if x["kind"] == "resumed" and x["seq"] // 10**9 > line["seq"] // 10**9]
            value = float(line["values"][metric])
            if math.isfinite(value) and all(line["step"] <= x["step"] for x in later):
                found.append((value, line["step"]))
    return min(found, default=None)


def test_it_agrees_with_the_receipt_and_the_whole_journal(tmp_path: Path) -> None:
    rng = random.Random(3)
    for number in range(40):
        folder = tmp_path / str(number)
        write_random_run(folder, rng)
        summary, receipt, run = summarize(folder, "val/loss"), read_receipt(folder), read_run(folder)
        assert (summary.status, summary.step) == (run.status, receipt.step)
        assert summary.behind == [sink.name for sink in receipt.sinks if sink.is_behind]
        best = None if summary.best is None else (summary.best.value, summary.best.step)
        assert best == best_by_hand(folder, "val/loss")


@pytest.mark.parametrize(
    ("name", "better", "best"),
    [
        ("E_r2", "higher", 0.9),
        ("E_r2", None, 0.9),
        ("accuracy", "higher", 0.9),
        ("accuracy", None, None),
        ("lr", None, None),
        ("E_rmse", None, -2.0),
        ("loss_energy", None, -2.0),
        ("E_r2", "lower", -2),
    ],
)
def test_the_best_value_depends_on_the_direction_of_the_metric(
    tmp_path: Path, name: str, better: Literal["lower", "higher"] | None, best: float | None
) -> None:
    run = WrittenRun(tmp_path / "run", metrics={f"val/{name}": Metric(better=better)})
    for step, value in enumerate([-2.0, 0.5, 0.9, math.inf, 0.9, math.nan, 0.7]):
        run.point(f"val/{name}", step, value)
    found = summarize(run.folder, f"val/{name}").best
    assert found == (None if best is None else BestValue(value=best, step=2 if best > 0 else 0))


def test_the_direction_of_a_metric_declared_later_is_known(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run", metrics={})
    run.update(metrics={"val/accuracy": Metric(unit="%", better="higher")})
    for step, value in enumerate([10.0, 90.0, 50.0]):
        run.point("val/accuracy", step, value)
    found = summarize(run.folder, "val/accuracy")
    assert found.best == BestValue(value=90, step=1)
    assert found.header.metrics["val/accuracy"].unit == "%"


def test_a_line_longer_than_the_tail_window_is_read(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    run.points("val", 7, {"loss": 1.0} | {f"{n:0200}": 1.0 for n in range(600)})
    run.close()
    assert run.journal.stat().st_size > 100_000
    summary = summarize(run.folder, "val/loss")
    assert (summary.status, summary.step, summary.best is not None) == ("finished", 7, True)


def test_a_torn_last_line_loses_only_that_line(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    run.point("val/loss", 7, 1.0)
    run.raw(b'{"kind":"scalars","seq":2,"time":5,"stream":"val","st')
    summary = summarize(run.folder, "val/loss")
    assert (summary.step, summary.time) == (7, NOON + 7000)


def test_the_last_record_of_an_empty_run_is_its_start(tmp_path: Path) -> None:
    summary = summarize(WrittenRun(tmp_path / "run", started=77).folder, "val/loss")
    assert (summary.step, summary.time, summary.best) == (0, 77, None)


def test_values_at_chunk_boundaries_are_found(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    for step in range(1, 12_000):
        run.point("val/loss" if step % 3 == 0 else "train/loss", step, 1 / step)
    assert run.journal.stat().st_size > 1 << 20
    summary = summarize(run.folder, "val/loss")
    assert summary.best is not None
    assert (summary.best.value, summary.best.step) == (1 / 11_997, 11_997)


def test_without_a_metric_only_the_head_and_tail_of_a_long_journal_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WrittenRun(tmp_path / "run")
    for step in range(1, 20_000):
        run.point("train/loss", step, 1.0)
    run.close()
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert summarize(run.folder, None).step == 19_999
    assert sum(read) <= 2 * (1 << 16)
    assert run.journal.stat().st_size > 2_000_000


def test_a_sink_with_an_unreadable_progress_file_has_a_question_mark(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run", sinks={"file": {}})
    run.point("train/loss", 1, 1.0)
    assert summarize(run.folder, None).behind == ["file"]
    write_progress(run.folder, "file", SinkProgress())
    progress_path(run.folder, "file").write_bytes(b"{")
    assert summarize(run.folder, None).behind == ["file?"]


def test_no_file_is_written(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run", sinks={"file": {}})
    run.point("train/loss", 1, 1.0)
    summarize(run.folder, "val/loss")
    assert [path.name for path in run.folder.rglob("*")] == ["journal-0.jsonl"]


def write_random_run(folder: Path, rng: random.Random) -> None:
    """Write a run with resumes, disk faults, alerts, non-finite values and a sink that is behind."""
    run = WrittenRun(folder, sinks={"file": {}})
    step, seqs = 0, [0]
    for _ in range(rng.randrange(1, 5)):
        for _ in range(rng.randrange(6)):
            step += rng.randrange(1, 100)
            seqs.append(write_random_step(run, step, rng))
        event = rng.choice(["resume", "resume", "fault", "close", "nothing"])
        if event == "resume":
            step = rng.randrange(step + 1)
            run.begin(resume_step=step)
        elif event == "fault":
            run.begin()
        elif event == "close":
            run.close(rng.choice(["preempted", "failed"]))
    if rng.random() < 0.5:
        run.close()
    elif rng.random() < 0.5:
        beat(folder, DEAD)
    if rng.random() < 0.8:
        progress = SinkProgress(state="delivering", destination="there", reopening=rng.random() < 0.2)
        progress.cursor.accepted = rng.choice([*seqs, seqs[-1]])
        write_progress(folder, "file", progress)


def write_random_step(run: WrittenRun, step: int, rng: random.Random) -> int:
    """Write the records of one iteration; return the sequence number of the last one."""
    run.point("train/loss", step, rng.random())
    if rng.random() < 0.5:
        run.point("val/loss", step, rng.choice([rng.random(), math.nan, math.inf]))
    if rng.random() < 0.2:
        run.alert(step, "a spike")
    return run.last
