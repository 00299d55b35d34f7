"""The ``telemetry`` command: what it prints, where, and with which exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from support.telemetry_fakes import (
    FOREIGN,
    FileSink,
    HandMadeRun,
    eventually,
    lines_of,
    offer_sinks,
    row_seqs,
    row_steps,
    run_record,
)
from telemetry import Settings, open_run
from telemetry.cli import main
from telemetry.journal.writer import JournalWriter
from telemetry.run_folder.heartbeat import Counts, Heartbeat, write_heartbeat
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import SinkProgress, progress_path, write_progress

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    offer_sinks(
        site,
        file="support.telemetry_fakes:FileSink",
        lacking="support.telemetry_fakes:LackingSink",
        broken="no_such_module:Sink",
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))


@pytest.fixture
def telemetry() -> Command:
    """Give a function that runs the command in this process."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return run


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    folder = tmp_path / "backend"
    folder.mkdir()
    return folder


class Run(HandMadeRun):
    """A run that was trained with the sink ``file``."""

    def __init__(self, folder: Path, backend: Path, trainer: Any = None) -> None:
        self.backend = backend
        super().__init__(folder, trainer)

    def begin(self, resume_step: int | None = None) -> None:
        super().begin(resume_step)
        self.journal.close()
        for path in self.folder.glob(f"journal-{self.attempt - 1}.jsonl"):
            path.unlink()
        record = msgspec.structs.replace(
            run_record(self.folder, self.attempt),
            sinks={"file": {"backend": str(self.backend), "password": "***"}},
        )
        self.journal = JournalWriter(self.folder, record, resumed_step=resume_step)


@pytest.fixture
def run(tmp_path: Path, backend: Path) -> Run:
    return Run(tmp_path / "run", backend)


# telemetry sinks


def test_it_lists_the_sinks_with_their_options_and_what_they_lack(telemetry: Command) -> None:
    result = telemetry("sinks")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "file  (fakes 1.0)  installed" in lines
    assert "    telemetry.file.backend: str" in lines
    assert "    telemetry.file.tells: bool = True" in lines
    assert "lacking  (fakes 1.0)  not installed: pip install no_such_module" in lines
    assert any(line.startswith("broken  BROKEN: ") and "no_such_module" in line for line in lines)
    assert any(line.startswith("tensorboard  (aimnet2mult ") for line in lines)


# telemetry sync


def test_a_finished_run_is_delivered_and_closed(telemetry: Command, run: Run, backend: Path) -> None:
    run.points(1, 2, 3)
    run.close("finished")
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "file: closed; 3 delivered, 0 left; closed as finished" in result.stdout
    assert f"    to {backend}" in result.stdout
    assert row_steps(backend) == [1, 2, 3]
    assert lines_of(backend / "closed") == ["finished"]


def test_a_crashed_run_is_delivered_and_closed_as_killed(telemetry: Command, run: Run, backend: Path) -> None:
    run.points(1, 2)
    run.die()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "closed as killed" in result.stdout
    assert lines_of(backend / "closed") == ["killed"]


def test_a_running_run_is_delivered_as_far_as_it_goes_and_later_the_rest(
    telemetry: Command, run: Run, backend: Path
) -> None:
    run.points(1, 2)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "2 delivered, 0 left" in result.stdout
    assert lines_of(backend / "closed") == []
    run.points(3)
    run.close()
    assert telemetry("sync", run.folder, "--telemetry-sinks", "file").exit_code == 0
    assert row_steps(backend) == [1, 2, 3]


def test_with_follow_a_running_run_is_delivered_until_it_ends(telemetry: Command, run: Run, backend: Path) -> None:
    run.points(1)
    results: list[Result] = []
    following = threading.Thread(
        target=lambda: results.append(telemetry("sync", run.folder, "--telemetry-sinks", "file", "--follow"))
    )
    following.start()
    eventually(lambda: row_steps(backend) == [1])
    run.points(2, 3)
    run.close("preempted")
    following.join()
    assert results[0].exit_code == 0
    assert row_steps(backend) == [1, 2, 3]
    assert lines_of(backend / "closed") == ["preempted"]


def test_options_default_to_those_of_the_training_and_may_be_given_anew(
    telemetry: Command, run: Run, backend: Path, tmp_path: Path
) -> None:
    run.points(1)
    run.close()
    other = tmp_path / "other"
    result = telemetry(
        "sync", run.folder, "--telemetry-sinks", "file", "-o", f"file.backend={other}", "-o", "file.level=3"
    )
    assert result.exit_code == 0
    assert (row_steps(other), row_steps(backend)) == ([1], [])
    assert telemetry("sync", run.folder, "--telemetry-sinks", "file").exit_code == 0
    assert row_steps(backend) == [1]


def test_without_a_name_the_sinks_of_the_training_are_delivered_to(telemetry: Command, run: Run, backend: Path) -> None:
    run.points(1)
    run.close()
    assert telemetry("sync", run.folder).exit_code == 0
    assert row_steps(backend) == [1]


def test_a_redacted_option_is_not_taken_for_a_value(
    telemetry: Command, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(FileSink, "__init__", lambda self, options: seen.append(options.password))
    telemetry("sync", run.folder, "--telemetry-sinks", "file", "--linger", "0.01")
    assert set(seen) == {""}


def test_a_sync_to_two_sinks_delivers_to_both(telemetry: Command, run: Run, backend: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run.points(1, 2)
    run.close()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file,tensorboard")
    assert result.exit_code == 0, result.output
    assert "file: closed; 2 delivered" in result.stdout
    assert "tensorboard: closed; 2 delivered" in result.stdout
    assert list((run.folder / "tensorboard").iterdir())


def test_a_sync_that_a_newer_attempt_ends_says_so(telemetry: Command, run: Run, backend: Path) -> None:
    run.points(1)
    results: list[Result] = []
    following = threading.Thread(
        target=lambda: results.append(telemetry("sync", run.folder, "--telemetry-sinks", "file", "--follow"))
    )
    following.start()
    eventually(lambda: row_steps(backend) == [1])
    run.begin(resume_step=1)
    following.join()
    assert results[0].exit_code == 1
    assert "file: a newer attempt of the run, or another delivery, has taken over" in results[0].stderr


def test_who_delivers_already_is_said_and_nothing_else_is_done(telemetry: Command, run: Run, backend: Path) -> None:
    run.points(1)
    lease = Lease(run.folder / "sinks", "file")
    assert lease.try_acquire()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: process {os.getpid()} on ")
    assert "is already delivering this run to 'file'; wait until it is done, or stop it" in result.stderr
    assert row_seqs(backend) == []
    assert lease.is_held()


def test_a_backend_that_is_down_leaves_the_sync_behind_with_exit_code_1(
    telemetry: Command, run: Run, backend: Path
) -> None:
    run.points(1, 2)
    run.close()
    (backend / "down").touch()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file", "--linger", "0.1")
    assert result.exit_code == 1
    assert "file: retrying; 0 delivered, 2 left, " in result.stdout
    assert "last error" in result.stdout
    assert "SinkUnavailable: the backend is down" in result.stdout
    assert f"deliver the rest: telemetry sync {run.folder} --telemetry-sinks file" in result.stdout
    assert "delivery to file of fakes 1.0 failed" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--telemetry-sinks", "fil"], "no sink 'fil'; installed: "),
        (["--telemetry-sinks", "fil"], "Did you mean 'file'?"),
        (["--telemetry-sinks", "none"], "name a sink to deliver to"),
        (["--telemetry-sinks", "lacking"], "pip install no_such_module"),
        (["--telemetry-sinks", "broken"], "cannot be imported"),
        (["--telemetry-sinks", "file", "-o", "file.bakend=x"], "Did you mean 'backend'?"),
        (["--telemetry-sinks", "file", "-o", "file.level=high"], "level"),
        (["--telemetry-sinks", "file", "-o", "backend"], "write it as SINK.NAME=VALUE"),
        (["--telemetry-sinks", "file", "--linger", "-1"], "linger"),
        (["--telemetry-sinks", "file,file"], "listed twice"),
    ],
)
def test_a_usage_error_is_a_message_on_stderr_and_exit_code_2(
    telemetry: Command, run: Run, backend: Path, args: list[str], message: str
) -> None:
    run.points(1)
    before = sorted(path.name for path in run.folder.rglob("*"))
    result = telemetry("sync", run.folder, *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in run.folder.rglob("*")) == before


@pytest.mark.parametrize("command", [["status"], ["sync", "--telemetry-sinks", "file"]])
def test_a_folder_without_a_run_is_an_error_and_stays_as_it_is(
    telemetry: Command, tmp_path: Path, command: list[str]
) -> None:
    for folder in (tmp_path / "nowhere", tmp_path / "backend"):
        result = telemetry(command[0], folder, *command[1:])
        assert result.exit_code == 2
        assert f"error: no run in {folder}" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_run_folder_that_cannot_be_written_to_is_a_message_and_no_traceback(telemetry: Command, run: Run) -> None:
    run.points(1)
    run.close()
    (run.folder / "sinks").rmdir()
    (run.folder / "sinks").write_text("a file in its place")
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {run.folder} cannot be written to (File exists): who delivers, and how far, is kept there\n"
    )


def test_progress_that_cannot_be_written_is_said_and_the_rest_is_delivered(
    telemetry: Command, run: Run, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.points(1)
    run.close()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("telemetry.run_folder.sink_progress.write_json", refuse)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "cannot save the progress of file" in result.stderr
    assert row_steps(backend) == [1]


def test_a_sink_that_was_never_named_and_takes_nothing_is_reported(
    telemetry: Command, tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(1)
    run.close()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("telemetry.run_folder.sink_progress.write_json", refuse)
    (backend / "down").touch()
    result = telemetry(
        "sync", run.folder, "--telemetry-sinks", "file", "-o", f"file.backend={backend}", "--linger", "0.1"
    )
    assert result.exit_code == 1
    assert "file: how far it has got could not be kept" in result.stdout


def test_a_sync_that_is_interrupted_says_how_to_go_on(run: Run, backend: Path) -> None:
    run.points(1)
    args = ["sync", str(run.folder), "--telemetry-sinks", "file", "--follow"]
    with subprocess.Popen(
        [sys.executable, "-m", "telemetry", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        eventually(lambda: row_steps(backend) == [1])
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the same command delivers what is left" in stderr
    assert "Traceback" not in stderr
    assert "file: delivering; 1 delivered, 0 left" in stdout
    assert Lease(run.folder / "sinks", "file").try_acquire()


def test_a_sync_that_is_interrupted_finishes_what_the_sink_is_at(run: Run, backend: Path) -> None:
    run.points(1)
    (backend / "slow").touch()
    args = ["sync", str(run.folder), "--telemetry-sinks", "file", "--follow"]
    with subprocess.Popen([sys.executable, "-m", "telemetry", *args], stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: lines_of(backend / "waits"))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("stopping")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        (backend / "slow").unlink()
        process.communicate(timeout=20)
    assert row_steps(backend) == [1]
    assert Lease(run.folder / "sinks", "file").try_acquire()


def test_a_sync_whose_trainer_cannot_be_seen_is_interrupted_at_once(tmp_path: Path, backend: Path) -> None:
    run = Run(tmp_path / "run", backend, FOREIGN)
    run.points(1)
    args = ["sync", str(run.folder), "--telemetry-sinks", "file"]
    with subprocess.Popen(
        [sys.executable, "-m", "telemetry", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        eventually(lambda: row_steps(backend) == [1])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 1


def test_what_could_not_be_read_of_the_journal_is_said(telemetry: Command, run: Run) -> None:
    run.points(1, 2)
    path = run.folder / "journal-0.jsonl"
    damaged = path.read_bytes().replace(b'"step":2', b'"step":7')
    run.close()
    path.write_bytes(damaged)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "passed over in the journal: 1 damaged" in result.stdout


# telemetry status


def status(telemetry: Command, run: HandMadeRun) -> list[str]:
    result = telemetry("status", run.folder)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_the_status_of_a_running_run(telemetry: Command, run: Run) -> None:
    run.points(100, 200)
    lines = status(telemetry, run)
    assert lines[0] == "a run (run), attempt 1: running"
    assert lines[1] == f"trainer: {current_process()}"
    assert lines[2] == "last point at iteration 200; 2 records in the journal"
    assert "file: opening; 0 delivered, 2 left" in lines


@pytest.mark.parametrize("ended", ["finished", "failed", "preempted"])
def test_the_status_of_a_run_that_ended(telemetry: Command, run: Run, ended: Any) -> None:
    run.points(100)
    run.close(ended)
    assert status(telemetry, run)[0] == f"a run (run), attempt 1: {ended}"


def test_the_status_says_why_a_run_failed(telemetry: Command, tmp_path: Path) -> None:
    bus = open_run(tmp_path / "run", sinks=[], settings=Settings(every=1))
    bus.close("failed", reason="diverged: train/loss is NaN")
    assert "attempt 1: failed (diverged: train/loss is NaN)" in telemetry("status", tmp_path / "run").stdout


def test_the_status_of_a_run_that_was_killed(telemetry: Command, run: Run) -> None:
    run.points(100)
    run.die()
    assert status(telemetry, run)[0] == "a run (run), attempt 1: killed"


def test_the_status_of_a_run_that_was_resumed_and_killed(telemetry: Command, tmp_path: Path) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(100, 200)
    run.close("preempted")
    run.begin(resume_step=100)
    run.die()
    lines = status(telemetry, run)
    assert lines[0] == "a run (run), attempt 2: killed"
    assert lines[2] == "last point at iteration 100; 2 records in the journal"
    assert "passed over in the journal: 1 superseded" in lines


def test_the_status_of_a_run_whose_trainer_cannot_be_seen(telemetry: Command, tmp_path: Path, backend: Path) -> None:
    lines = status(telemetry, Run(tmp_path / "run", backend, FOREIGN))
    assert lines[0].endswith("running, or ended without a word (its trainer cannot be seen from here)")


def test_the_status_shows_how_a_sink_stands(telemetry: Command, run: Run) -> None:
    seqs = run.points(*range(1, 11))
    progress = SinkProgress(state="retrying", destination="https://x/y", retries=3, last_error="E: no network")
    progress.cursor.accepted = seqs[6]
    progress.cursor.rejected = 1
    progress.last_error_time = 1_700_000_000_000
    write_progress(run.folder, "file", progress)
    lines = status(telemetry, run)
    assert "file: retrying; 6 delivered, 3 left, 1 rejected, 3 retries" in lines
    assert "    to https://x/y" in lines
    assert any(line.startswith("    last error, 2023-11-1") and line.endswith("E: no network") for line in lines)


def test_the_status_counts_what_was_offered_and_not_written(telemetry: Command, run: Run) -> None:
    run.points(1)
    lost = Counts(offered=9, journaled=1, lost=5, step=1)
    write_heartbeat(run.folder, Heartbeat(trainer=current_process(), attempt=1, beat=3, counts=lost))
    assert "this attempt: 9 offered, 1 journaled, 5 lost" in status(telemetry, run)


def test_an_error_that_has_passed_is_not_shown_any_more(telemetry: Command, run: Run) -> None:
    write_progress(run.folder, "file", SinkProgress(state="delivering", last_error="E: no network"))
    assert not any("last error" in line for line in status(telemetry, run))


def test_what_was_delivered_elsewhere_is_not_taken_for_the_place_that_cannot_be_opened(
    telemetry: Command, run: Run
) -> None:
    seqs = run.points(1, 2)
    progress = SinkProgress(state="retrying", reopening=True, destination="there", last_error="E: refused")
    progress.cursor.accepted, progress.cursor.closed = seqs[-1], "finished"
    write_progress(run.folder, "file", progress)
    lines = status(telemetry, run)
    assert "file: retrying; not connected; before: 2 delivered, 0 left; closed as finished" in lines
    assert f"deliver the rest: telemetry sync {run.folder} --telemetry-sinks file" in lines


def test_the_status_says_who_delivers_or_that_nobody_does(telemetry: Command, run: Run) -> None:
    write_progress(run.folder, "file", SinkProgress(state="delivering"))
    assert "    no process is delivering" in status(telemetry, run)
    lease = Lease(run.folder / "sinks", "file")
    assert lease.try_acquire()
    run.points(1)
    lines = status(telemetry, run)
    assert f"    being delivered by {current_process()}" in lines
    assert any(line.startswith("deliver the rest once no process is delivering: ") for line in lines)


def test_an_option_of_a_sink_that_is_not_delivered_to_is_an_error(telemetry: Command, run: Run) -> None:
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file", "-o", "other.dir=x")
    assert result.exit_code == 2
    assert "'other.dir=x': 'other' is not delivered to; name it in --telemetry-sinks" in result.stderr


def test_a_progress_file_with_an_impossible_time_is_no_hindrance(telemetry: Command, run: Run) -> None:
    write_progress(run.folder, "file", SinkProgress(state="retrying", last_error="E", last_error_time=(1 << 62) - 1))
    assert any("last error" in line for line in status(telemetry, run))


def test_what_a_foreign_file_says_does_not_steer_the_terminal(telemetry: Command, run: Run) -> None:
    write_progress(run.folder, "file", SinkProgress(destination="\x1b[2Jgone\r", last_error="\x1b]0;x\x07", updated=1))
    result = telemetry("status", run.folder)
    assert result.exit_code == 0
    assert not any(char in result.stdout for char in "\x1b\x07\r")


def test_looking_at_a_run_changes_nothing(telemetry: Command, run: Run) -> None:
    run.points(1)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    status(telemetry, run)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_garbage_beside_the_journal_is_no_hindrance(telemetry: Command, run: Run) -> None:
    run.points(1)
    run.close()
    (run.folder / "alive.json").write_bytes(b"\0\0")
    progress_path(run.folder, "file").write_bytes(b"{")
    progress_path(run.folder, "folder").mkdir()
    assert status(telemetry, run)[0].endswith("finished")


# The command as such.


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "telemetry", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("Usage: telemetry ")
    for name in ("export", "list", "show", "sinks", "status", "sync"):
        assert name in done.stdout


HEAVY = ("pint", "torch", "tensorboard", "numpy", "wandb", "mlflow", "ignite", "matplotlib", "plotext", "pandas")


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["sync"],
        ["sync", "x", "--telemetry-sinks", "fil"],
        ["status", "nowhere"],
        ["show", "nowhere"],
        ["export", "nowhere"],
        ["list", "nowhere"],
        ["nonesuch"],
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(args: list[str]) -> None:
    code = f"""
import sys
from telemetry.cli import main
try:
    main({args!r}, prog_name="telemetry")
except SystemExit as end:
    code = end.code
print([name for name in {HEAVY!r} if name in sys.modules], code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"[] {0 if args == ['--help'] else 2}"
    assert "Traceback" not in done.stderr


def test_an_error_of_telemetry_is_one_line_on_stderr_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "telemetry", "status", "/no/such/run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: no run in /no/such/run: it contains no journal-<k>.jsonl with a run record\n"
