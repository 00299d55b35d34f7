"""``telemetry list``: the runs of a folder, read from the head and the tail of each."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from support.telemetry_fakes import DEAD, beat, journal_lines
from support.written_runs import NOON, WrittenRun
from telemetry import Metric, read_receipt, read_run
from telemetry.cli import main
from telemetry.journal import segment_lines as lines_module
from telemetry.reading.run_list import RunTable
from telemetry.reading.run_summary import summarize
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import SinkProgress, progress_path, write_progress


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def listed(*args: object) -> Result:
    return CliRunner().invoke(main, ["list", *map(str, args)])


def rows(result: Result) -> dict[str, list[str]]:
    """The cells of each line by the first one; cells are told apart by two spaces."""
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in result.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines}


def best_by_hand(folder: Path, name: str) -> tuple[float, int] | None:
    """The lowest finite value and its iteration, of what counts, from the lines of the journal alone."""
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


class TestTable:
    def test_it_has_a_line_for_each_run_the_latest_first(self, runs: Path) -> None:
        old, new = WrittenRun(runs / "old"), WrittenRun(runs / "new")
        for run, first in ((old, 100), (new, 300)):
            for step in (first, first + 100):
                run.point("train/loss", step, 1.0)
                run.point("val/loss", step, 5.0 + step)
        old.close("failed")
        beat(new.folder, current_process())
        lines = list(RunTable(runs).lines(NOON + 400_000 + 90_000))
        assert [line.split()[0] for line in lines] == ["run", "old", "new"]
        assert lines[1].split() == ["old", "failed", "200", "0", "s", "ago", "-", "105", "at", "100"]
        assert lines[2].split() == ["new", "running", "400", "1", "min", "ago", "-", "305", "at", "300"]

    @pytest.mark.parametrize(
        ("seconds", "age"),
        [(-5, "0 s ago"), (59, "59 s ago"), (3599, "59 min ago"), (86_399, "23 h ago"), (200_000, "2 d ago")],
    )
    def test_ages_are_in_one_unit(self, runs: Path, seconds: int, age: str) -> None:
        WrittenRun(runs / "a").point("train/loss", 0, 1.0)
        assert age in list(RunTable(runs).lines(NOON + 1000 * seconds))[1]

    def test_the_metric_may_be_named_and_has_its_unit(self, runs: Path) -> None:
        run = WrittenRun(runs / "a")
        run.point("val/E_rmse", 100, 3.5)
        run.point("val/E_rmse", 200, 4.5)
        assert rows(listed(runs, "--best", "val/E_rmse"))["a"][-1] == "3.5 kcal/mol at 100"

    def test_an_unknown_metric_is_an_error_with_the_close_names(self, runs: Path) -> None:
        WrittenRun(runs / "a")
        result = listed(runs, "--best", "val/E_rms")
        assert result.exit_code == 2
        assert "no metric 'val/E_rms'; did you mean 'val/E_rmse'" in result.stderr

    def test_a_metric_that_no_run_declares_is_found_by_its_values(self, runs: Path) -> None:
        run = WrittenRun(runs / "a", metrics={})
        run.point("test/accuracy", 100, 0.5)
        assert rows(listed(runs, "--best", "test/accuracy"))["a"][-1] == "0.5 at 100"

    def test_with_quick_the_metric_is_left_out(self, runs: Path) -> None:
        WrittenRun(runs / "a").point("val/loss", 100, 3.5)
        result = listed(runs, "--quick")
        assert "lowest" not in result.stdout
        assert len(rows(result)["a"]) == 4
        assert listed(runs, "--quick", "--best", "val/loss").exit_code == 2

    def test_a_run_folder_is_listed_by_itself(self, runs: Path) -> None:
        WrittenRun(runs / "a").close()
        assert list(rows(listed(runs / "a"))) == ["run", "a"]

    def test_a_folder_without_runs_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "not a run").mkdir()
        for folder in (tmp_path, tmp_path / "nowhere"):
            result = listed(folder)
            assert result.exit_code == 2
            assert result.stderr.startswith("error: ")

    def test_a_run_whose_trainer_cannot_be_seen_is_explained(self, runs: Path) -> None:
        WrittenRun(runs / "a").point("train/loss", 1, 1.0)
        result = listed(runs)
        assert rows(result)["a"][0] == "unseen"
        assert result.stdout.endswith(
            "unseen: running, or ended without a word; the trainer cannot be seen from here\n"
        )

    def test_bad_folders_are_shown_and_do_not_hide_the_others(self, runs: Path) -> None:
        WrittenRun(runs / "good").close()
        newer = WrittenRun(runs / "newer", schema=99)
        newer.close()
        (runs / "empty").mkdir()
        (runs / "file").write_text("x")
        (runs / "torn").mkdir()
        (runs / "torn" / "journal-0.jsonl").write_bytes(b"\xff\0" * 1000)
        (runs / "folder").mkdir()
        (runs / "folder" / "journal-0.jsonl").mkdir()
        os.mkfifo(runs / "folder" / "journal-1.jsonl")
        (runs / "link").symlink_to("link")
        found = rows(listed(runs))
        assert list(found) == ["run", "good", "folder", "newer", "torn"]
        assert found["good"][0] == "finished"
        assert found["newer"][0].startswith("cannot be read: ")
        assert "schema 99" in found["newer"][0]
        assert "no run in" in found["torn"][0]

    def test_whatever_goes_wrong_with_one_the_others_are_listed(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(folder: Path, metric: str | None) -> Any:
            if folder.name == "bad":
                msg = "surprise"
                raise RuntimeError(msg)
            return summarize(folder, metric)

        for name in ("bad", "good"):
            WrittenRun(runs / name).close()
        monkeypatch.setattr("telemetry.reading.run_list.summarize", fail)
        found = rows(listed(runs))
        assert found["bad"] == ["cannot be read: surprise"]
        assert found["good"][0] == "finished"

    def test_names_do_not_steer_the_terminal(self, runs: Path) -> None:
        WrittenRun(runs / "a\x1b[2J\r\n").close()
        WrittenRun(runs / "b", metrics={"val/loss": Metric(unit="\x1b]0;x\x07\x9b")}, sinks={"file": {}}).point(
            "val/loss", 1, 1.0
        )
        result = listed(runs)
        assert result.exit_code == 0
        assert not set(result.stdout) & set("\x1b\x07\x9b\r")


class TestGlance:
    def test_it_agrees_with_what_reads_the_whole_journal(self, tmp_path: Path) -> None:
        rng = random.Random(3)
        for number in range(40):
            folder = tmp_path / str(number)
            a_random_run(folder, rng)
            look, receipt, run = summarize(folder, "val/loss"), read_receipt(folder), read_run(folder)
            assert (look.status, look.step) == (run.status, receipt.step)
            assert look.behind == [sink.name for sink in receipt.sinks if sink.is_behind]
            best = None if look.best is None else (look.best.value, look.best.step)
            assert best == best_by_hand(folder, "val/loss")

    def test_a_line_longer_than_the_tail_that_is_read_is_no_hindrance(self, tmp_path: Path) -> None:
        run = WrittenRun(tmp_path / "run")
        run.points("val", 7, {"loss": 1.0} | {f"{n:0200}": 1.0 for n in range(600)})
        run.close()
        assert run.journal.stat().st_size > 100_000
        look = summarize(run.folder, "val/loss")
        assert (look.status, look.step, look.best is not None) == ("finished", 7, True)

    def test_a_torn_last_line_costs_only_that_line(self, tmp_path: Path) -> None:
        run = WrittenRun(tmp_path / "run")
        run.point("val/loss", 7, 1.0)
        run.raw(b'{"kind":"scalars","seq":2,"time":5,"stream":"val","st')
        look = summarize(run.folder, "val/loss")
        assert (look.step, look.time) == (7, NOON + 7000)

    def test_a_run_without_records_was_last_heard_of_when_it_started(self, tmp_path: Path) -> None:
        look = summarize(WrittenRun(tmp_path / "run", started=77).folder, "val/loss")
        assert (look.step, look.time, look.best) == (0, 77, None)

    def test_values_on_the_edges_of_what_is_read_at_once_are_found(self, tmp_path: Path) -> None:
        run = WrittenRun(tmp_path / "run")
        for step in range(1, 12_000):
            run.point("val/loss" if step % 3 == 0 else "train/loss", step, 1 / step)
        assert run.journal.stat().st_size > 1 << 20
        look = summarize(run.folder, "val/loss")
        assert look.best is not None
        assert (look.best.value, look.best.step) == (1 / 11_997, 11_997)

    def test_without_a_metric_little_is_read_of_a_long_journal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

        monkeypatch.setattr(lines_module.os, "pread", counted)
        assert summarize(run.folder, None).step == 19_999
        assert sum(read) <= 2 * (1 << 16)
        assert run.journal.stat().st_size > 2_000_000

    def test_a_sink_whose_progress_cannot_be_read_has_a_question_mark(self, tmp_path: Path) -> None:
        run = WrittenRun(tmp_path / "run", sinks={"file": {}})
        run.point("train/loss", 1, 1.0)
        assert summarize(run.folder, None).behind == ["file"]
        write_progress(run.folder, "file", SinkProgress())
        progress_path(run.folder, "file").write_bytes(b"{")
        assert summarize(run.folder, None).behind == ["file?"]

    def test_looking_writes_nothing(self, tmp_path: Path) -> None:
        run = WrittenRun(tmp_path / "run", sinks={"file": {}})
        run.point("train/loss", 1, 1.0)
        summarize(run.folder, "val/loss")
        assert [path.name for path in run.folder.rglob("*")] == ["journal-0.jsonl"]


def a_random_run(folder: Path, rng: random.Random) -> None:
    """A run with resumes, faults of the disk, alerts, values that are not finite, and a sink that lags."""
    run = WrittenRun(folder, sinks={"file": {}})
    step, seqs = 0, [0]
    for _ in range(rng.randrange(1, 5)):
        for _ in range(rng.randrange(6)):
            step += rng.randrange(1, 100)
            seqs.append(a_random_step(run, step, rng))
        what = rng.choice(["resume", "resume", "fault", "close", "nothing"])
        if what == "resume":
            step = rng.randrange(step + 1)
            run.begin(resume_step=step)
        elif what == "fault":
            run.begin()
        elif what == "close":
            run.close(rng.choice(["preempted", "failed"]))
    if rng.random() < 0.5:
        run.close()
    elif rng.random() < 0.5:
        beat(folder, DEAD)
    if rng.random() < 0.8:
        progress = SinkProgress(state="delivering", destination="there", reopening=rng.random() < 0.2)
        progress.cursor.accepted = rng.choice([*seqs, seqs[-1]])
        write_progress(folder, "file", progress)


def a_random_step(run: WrittenRun, step: int, rng: random.Random) -> int:
    """Give the number of the last record."""
    run.point("train/loss", step, rng.random())
    if rng.random() < 0.5:
        run.point("val/loss", step, rng.choice([rng.random(), math.nan, math.inf]))
    if rng.random() < 0.2:
        run.alert(step, "a spike")
    return run.last
