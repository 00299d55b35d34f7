"""``telemetry status``: the status of a run and the progress of its sinks."""

from __future__ import annotations

import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from support.cli_runs import FileSinkRun, telemetry
from support.telemetry_fakes import FOREIGN, HandMadeRun, beat
from support.written_runs import WrittenRun
from telemetry import Settings, open_run
from telemetry.records import now_ms
from telemetry.run_folder.heartbeat import Counts, Heartbeat, write_heartbeat
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import SinkProgress, progress_path, write_progress

pytestmark = pytest.mark.usefixtures("fake_sinks")


def status(run: HandMadeRun) -> list[str]:
    result = telemetry("status", run.folder)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_a_running_run(run: FileSinkRun) -> None:
    run.points(100, 200)
    lines = status(run)
    assert lines[0] == "a run (run), attempt 1: running"
    assert lines[1] == f"trainer: {current_process()}"
    assert re.fullmatch(r"last point at iteration 200, \d+ \w+ ago; 2 records in the journal", lines[2])
    assert "file: opening; 0 delivered, 2 pending" in lines


@pytest.mark.parametrize("ended", ["finished", "failed", "preempted"])
def test_an_ended_run_has_no_hanging_trainer(run: FileSinkRun, ended: Any) -> None:
    run.points(100)
    run.close(ended)
    an_hour_ago = time.time() - 3600
    os.utime(run.folder / "alive.json", (an_hour_ago, an_hour_ago))
    lines = status(run)
    assert not any(line.startswith("PROBLEM") for line in lines)
    assert lines[0] == f"a run (run), attempt 1: {ended}"
    assert lines[1] == f"trainer: {current_process()} (ended)"


def test_the_reason_of_a_failure_is_shown(tmp_path: Path) -> None:
    bus = open_run(tmp_path / "run", sinks=[], settings=Settings(every=1))
    bus.close("failed", reason="diverged: train/loss is NaN")
    assert "attempt 1: failed (diverged: train/loss is NaN)" in telemetry("status", tmp_path / "run").stdout


def test_a_killed_run(run: FileSinkRun) -> None:
    run.points(100)
    run.die()
    lines = status(run)
    assert lines[0] == "a run (run), attempt 1: killed"
    assert lines[1].endswith(" (ended without closing the run)")
    assert lines[3] == "resume: run its training program again"


@pytest.mark.parametrize("name", ["run", "a run's folder"])
def test_the_command_that_resumes_a_run_of_the_trainer_is_shown(tmp_path: Path, name: str) -> None:
    run = WrittenRun(tmp_path / name, versions={"aimnet2mult": "0.2.0"})
    run.close("preempted")
    lines = telemetry("status", run.folder).stdout.splitlines()
    (command,) = [line.removeprefix("resume: ") for line in lines if line.startswith("resume: ")]
    assert shlex.split(command) == ["aimnet2mult", "train", "--resume", str(run.folder)]


def test_a_trainer_without_heartbeat_is_a_problem_with_the_command_to_look_at_it(run: FileSinkRun) -> None:
    run.points(100)
    minutes_ago = time.time() - 300
    os.utime(run.folder / "alive.json", (minutes_ago, minutes_ago))
    lines = status(run)
    assert lines[0].endswith("running")
    assert lines[3] == (
        "PROBLEM: last heartbeat 5 min ago, but one is written every 10 s: the process is stopped or waits for a disk"
    )
    assert lines[4].startswith("look at the process: ps -o ")
    assert lines[4].endswith(f" -p {os.getpid()}")


@pytest.mark.parametrize(("interval", "hangs"), [(20, True), (600, False)])
def test_a_trainer_without_new_points_is_a_problem_if_they_came_more_often_before(
    tmp_path: Path, interval: int, hangs: bool
) -> None:
    run = WrittenRun(tmp_path / "run")
    beat(run.folder, current_process())
    for number in range(10):
        run.point("train/loss", number, 1.0, time=now_ms() - 1_200_000 - 1000 * interval * (9 - number))
    lines = telemetry("status", run.folder).stdout.splitlines()
    assert lines[2].startswith("last point at iteration 9, 20 min ago")
    problem = "PROBLEM: last point 20 min ago; before that, one arrived at least every 20 s: the training seems to hang"
    assert (problem in lines) is hangs


def test_a_trainer_that_cannot_be_checked_is_to_be_checked_on_its_machine(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    beat(run.folder, FOREIGN)
    text = telemetry("status", run.folder).stdout
    assert f"s ago; check on {FOREIGN.host}: telemetry status {run.folder}" in text


def test_a_resumed_and_killed_run(tmp_path: Path) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(100, 200)
    run.close("preempted")
    run.begin(resume_step=100)
    run.die()
    lines = status(run)
    assert lines[0] == "a run (run), attempt 2: killed"
    assert lines[2] == "last point at iteration 100; 2 records in the journal"
    assert "skipped in the journal: 1 superseded" in lines


def test_a_run_whose_trainer_cannot_be_checked(tmp_path: Path, backend: Path) -> None:
    lines = status(FileSinkRun(tmp_path / "run", backend, FOREIGN))
    assert lines[0].endswith("running or killed (its trainer cannot be checked from here)")


def test_the_state_of_a_sink_is_shown(run: FileSinkRun) -> None:
    seqs = run.points(*range(1, 11))
    progress = SinkProgress(state="retrying", destination="https://x/y", retries=3, last_error="E: no network")
    progress.cursor.accepted = seqs[6]
    progress.cursor.rejected = 1
    progress.last_error_time = 1_700_000_000_000
    write_progress(run.folder, "file", progress)
    lines = status(run)
    assert "file: retrying; 6 delivered, 3 pending, 1 rejected, 3 retries" in lines
    assert "    to https://x/y" in lines
    assert any(line.startswith("    last error, 2023-11-1") and line.endswith("E: no network") for line in lines)


def test_records_that_were_offered_but_not_journaled_are_counted(run: FileSinkRun) -> None:
    run.points(1)
    counts = Counts(offered=9, journaled=1, lost=5, step=1)
    write_heartbeat(run.folder, Heartbeat(trainer=current_process(), attempt=1, beat=3, counts=counts))
    assert "this attempt: 9 offered, 1 journaled, 5 lost, 3 not yet written" in status(run)


def test_the_last_error_is_omitted_once_delivery_works_again(run: FileSinkRun) -> None:
    write_progress(run.folder, "file", SinkProgress(state="delivering", last_error="E: no network"))
    assert not any("last error" in line for line in status(run))


def test_progress_at_a_previous_destination_does_not_count_for_one_that_cannot_be_opened(run: FileSinkRun) -> None:
    seqs = run.points(1, 2)
    progress = SinkProgress(state="retrying", reopening=True, destination="there", last_error="E: refused")
    progress.cursor.accepted, progress.cursor.closed = seqs[-1], "finished"
    write_progress(run.folder, "file", progress)
    lines = status(run)
    assert "file: retrying; not connected; before: 2 delivered, 0 pending; closed as finished" in lines
    assert f"deliver the rest: telemetry sync {run.folder} --telemetry-sinks file" in lines


def test_the_delivering_process_is_shown_if_there_is_one(run: FileSinkRun) -> None:
    write_progress(run.folder, "file", SinkProgress(state="delivering"))
    assert "    no process is delivering" in status(run)
    lease = Lease(run.folder / "sinks", "file")
    assert lease.try_acquire()
    run.points(1)
    lines = status(run)
    assert f"    being delivered by {current_process()}" in lines
    assert not any(line.startswith("deliver the rest") for line in lines), "the run and its delivery are in progress"
    run.close()
    lines = status(run)
    assert any(line.startswith("deliver the rest once no process is delivering: ") for line in lines)


def test_an_impossible_time_in_a_progress_file_is_accepted(run: FileSinkRun) -> None:
    write_progress(run.folder, "file", SinkProgress(state="retrying", last_error="E", last_error_time=(1 << 62) - 1))
    assert any("last error" in line for line in status(run))


def test_text_in_a_progress_file_cannot_control_the_terminal(run: FileSinkRun) -> None:
    write_progress(run.folder, "file", SinkProgress(destination="\x1b[2Jgone\r", last_error="\x1b]0;x\x07", updated=1))
    result = telemetry("status", run.folder)
    assert result.exit_code == 0
    assert not any(char in result.stdout for char in "\x1b\x07\r")


def test_no_file_is_written_or_changed(run: FileSinkRun) -> None:
    run.points(1)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    status(run)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_damaged_heartbeat_and_progress_files_are_ignored(run: FileSinkRun) -> None:
    run.points(1)
    run.close()
    (run.folder / "alive.json").write_bytes(b"\0\0")
    progress_path(run.folder, "file").write_bytes(b"{")
    progress_path(run.folder, "folder").mkdir()
    assert status(run)[0].endswith("finished")


def test_a_folder_without_a_run_is_an_error_and_is_not_created(tmp_path: Path, backend: Path) -> None:
    for folder in (tmp_path / "nowhere", backend):
        result = telemetry("status", folder)
        assert result.exit_code == 2
        assert f"error: no run in {folder}" in result.stderr
    assert not (tmp_path / "nowhere").exists()
