"""``telemetry sync``: deliveries, output and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cli_runs import FileSinkRun, telemetry
from support.telemetry_fakes import FOREIGN, FileSink, HandMadeRun, eventually, lines_of, row_seqs, row_steps
from telemetry import Settings
from telemetry.cli.sync import deliver
from telemetry.plugins.registry import select
from telemetry.run_folder.lease import Lease

pytestmark = pytest.mark.usefixtures("fake_sinks")


@contextmanager
def following(run: FileSinkRun) -> Iterator[list[bool]]:
    """Deliver a run in a thread until it ends, as with ``--follow``; the yielded list receives the result."""
    results: list[bool] = []
    sinks = select(("file",), {"file": {"backend": str(run.backend)}})
    settings = Settings(poll=0.05)
    thread = threading.Thread(target=lambda: results.append(deliver(run.folder, sinks, settings, follow=True)))
    thread.start()
    yield results
    thread.join(20)
    assert not thread.is_alive()


def test_a_finished_run_is_delivered_and_closed(run: FileSinkRun, backend: Path) -> None:
    run.points(1, 2, 3)
    run.close("finished")
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "file: closed; 3 delivered, 0 pending; closed as finished" in result.stdout
    assert f"    to {backend}" in result.stdout
    assert row_steps(backend) == [1, 2, 3]
    assert lines_of(backend / "closed") == ["finished"]


def test_a_crashed_run_is_delivered_and_closed_as_killed(run: FileSinkRun, backend: Path) -> None:
    run.points(1, 2)
    run.die()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "closed as killed" in result.stdout
    assert lines_of(backend / "closed") == ["killed"]


def test_a_second_sync_of_a_running_run_delivers_only_new_records(run: FileSinkRun, backend: Path) -> None:
    run.points(1, 2)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "2 delivered, 0 pending" in result.stdout
    assert lines_of(backend / "closed") == []
    run.points(3)
    run.close()
    assert telemetry("sync", run.folder, "--telemetry-sinks", "file").exit_code == 0
    assert row_steps(backend) == [1, 2, 3]


def test_with_follow_a_running_run_is_delivered_until_it_ends(run: FileSinkRun, backend: Path) -> None:
    run.points(1)
    with following(run) as results:
        eventually(lambda: row_steps(backend) == [1])
        run.points(2, 3)
        run.close("preempted")
    assert results == [True]
    assert row_steps(backend) == [1, 2, 3]
    assert lines_of(backend / "closed") == ["preempted"]


def test_delivery_ends_when_a_newer_attempt_starts(
    run: FileSinkRun, backend: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.points(1)
    with following(run) as results:
        eventually(lambda: row_steps(backend) == [1])
        run.begin(resume_step=1)
    assert results == [False]
    assert capsys.readouterr().err.startswith("file: a newer attempt of the run, or another delivery, has taken over")


def test_options_default_to_those_of_the_training_and_can_be_overridden(
    run: FileSinkRun, backend: Path, tmp_path: Path
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


def test_the_sinks_default_to_those_of_the_training(run: FileSinkRun, backend: Path) -> None:
    run.points(1)
    run.close()
    assert telemetry("sync", run.folder).exit_code == 0
    assert row_steps(backend) == [1]


def test_credentials_of_the_training_come_from_the_environment(
    run: FileSinkRun, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "options", {"password": "***", "server": "https://***@host/?token=***"})
    run.die()
    run.begin()
    run.close()
    seen: list[tuple[str, str]] = []
    make = FileSink.__init__

    def remember(self: FileSink, options: FileSink.Options) -> None:
        seen.append((options.password, options.server))
        make(self, options)

    monkeypatch.setattr(FileSink, "__init__", remember)
    result = telemetry("sync", run.folder)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: sink 'file' needs password, server, and run folders do not contain credentials: set "
        "TELEMETRY_FILE_PASSWORD and TELEMETRY_FILE_SERVER in the environment\n"
    )
    monkeypatch.setenv("TELEMETRY_FILE_PASSWORD", "hunter2")
    assert "set TELEMETRY_FILE_SERVER in" in telemetry("sync", run.folder).stderr
    assert seen == []
    assert telemetry("sync", run.folder, "-o", "file.server=https://me:pw@host").exit_code == 0
    assert set(seen) == {("hunter2", "https://me:pw@host")}


def test_credentials_that_an_earlier_version_has_stored_are_used(
    run: FileSinkRun, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "options", {"server": "https://me:pw@host"})
    run.die()
    run.begin()
    run.points(1)
    run.close()
    assert telemetry("sync", run.folder).exit_code == 0
    assert row_steps(backend) == [1]


def test_two_sinks_both_receive_the_records(run: FileSinkRun) -> None:
    pytest.importorskip("tensorboard")
    run.points(1, 2)
    run.close()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file,tensorboard")
    assert result.exit_code == 0, result.output
    assert "file: closed; 2 delivered" in result.stdout
    assert "tensorboard: closed; 2 delivered" in result.stdout
    assert list((run.folder / "tensorboard").iterdir())


def test_nothing_is_delivered_while_another_process_delivers(run: FileSinkRun, backend: Path) -> None:
    run.points(1)
    lease = Lease(run.folder / "sinks", "file")
    assert lease.try_acquire()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: process {os.getpid()} on ")
    assert "this run to 'file'" in result.stderr
    assert row_seqs(backend) == []
    assert lease.is_held()


def test_an_unavailable_backend_is_reported_with_exit_code_1(run: FileSinkRun, backend: Path) -> None:
    run.points(1, 2)
    run.close()
    (backend / "down").touch()
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file", "--linger", "0.1")
    assert result.exit_code == 1
    assert "file: retrying; 0 delivered, 2 pending, " in result.stdout
    assert "last error" in result.stdout
    assert ": the backend is down" in result.stdout
    assert f"deliver the rest: telemetry sync {run.folder} --telemetry-sinks file" in result.stdout
    assert "warning: file: cannot be reached (the backend is down); retrying, " in result.stderr
    assert "delivery to file of fakes 1.0 failed" in (run.folder / "sinks/file.log").read_text()
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--telemetry-sinks", "fil"], "no sink 'fil'; installed: "),
        (["--telemetry-sinks", "fil"], "Did you mean 'file'?"),
        (["--telemetry-sinks", "none"], "no sink to deliver to; select one with --telemetry-sinks"),
        (["--telemetry-sinks", "lacking"], "pip install no_such_module"),
        (["--telemetry-sinks", "broken"], "cannot be imported"),
        (["--telemetry-sinks", "file", "-o", "file.bakend=x"], "Did you mean 'backend'?"),
        (["--telemetry-sinks", "file", "-o", "file.level=high"], "level"),
        (["--telemetry-sinks", "file", "-o", "backend"], "'backend' is not of the form SINK.NAME=VALUE"),
        (["--telemetry-sinks", "file", "-o", "other.dir=x"], "'other.dir': sink 'other' is not selected; add it to"),
        (["--telemetry-sinks", "file", "--linger", "-1"], "linger"),
        (["--telemetry-sinks", "file,file"], "listed twice"),
    ],
)
def test_a_usage_error_is_one_line_on_stderr_and_exit_code_2(run: FileSinkRun, args: list[str], message: str) -> None:
    run.points(1)
    before = sorted(path.name for path in run.folder.rglob("*"))
    result = telemetry("sync", run.folder, *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in run.folder.rglob("*")) == before


def test_a_folder_without_a_run_is_an_error_and_is_not_created(tmp_path: Path, backend: Path) -> None:
    for folder in (tmp_path / "nowhere", backend):
        result = telemetry("sync", folder, "--telemetry-sinks", "file")
        assert result.exit_code == 2
        assert f"error: no run in {folder}" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_run_folder_that_is_not_writable_is_an_error(run: FileSinkRun) -> None:
    run.points(1)
    run.close()
    (run.folder / "sinks").rmdir()
    (run.folder / "sinks").write_text("a file in its place")
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {run.folder} is not writable (sinks is a file instead of a folder); leases and delivery progress are "
        "stored there\n"
    )


def test_for_the_run_of_another_user_a_copy_is_suggested(run: FileSinkRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    run.points(1)
    run.close()
    # Root, who may run the tests, can write to all folders.
    monkeypatch.setattr("telemetry.run_folder.lease.Lease.acquire", fail)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 2
    assert result.stderr.endswith("stored there; to deliver a run of another user, copy it (cp -r)\n")


def test_records_are_delivered_even_if_progress_cannot_be_saved(
    run: FileSinkRun, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.points(1)
    run.close()
    fill_disk(monkeypatch)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "cannot save the progress of file" in result.stderr
    assert row_steps(backend) == [1]


def test_a_sink_without_any_saved_progress_is_reported(
    tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(1)
    run.close()
    fill_disk(monkeypatch)
    (backend / "down").touch()
    result = telemetry(
        "sync", run.folder, "--telemetry-sinks", "file", "-o", f"file.backend={backend}", "--linger", "0.1"
    )
    assert result.exit_code == 1
    assert "file: delivery progress could not be saved" in result.stdout


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("telemetry.run_folder.sink_progress.write_json", fail)


def start_sync(run: FileSinkRun, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "telemetry", "sync", str(run.folder), "--telemetry-sinks", "file", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_after_a_signal_the_output_explains_how_to_continue(
    run: FileSinkRun, backend: Path, number: signal.Signals
) -> None:
    run.points(1)
    with start_sync(run, "--follow") as process:
        eventually(lambda: row_steps(backend) == [1])
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "run the same command again to deliver the remaining records" in stderr
    assert "Traceback" not in stderr
    assert "file: delivering; 1 delivered, 0 pending" in stdout
    assert Lease(run.folder / "sinks", "file").try_acquire()


def test_with_follow_an_outage_and_the_recovery_are_reported(run: FileSinkRun, backend: Path) -> None:
    run.points(1)
    (backend / "down").touch()
    with start_sync(run, "--follow") as process:
        assert process.stderr is not None
        outage = process.stderr.readline()
        (backend / "down").unlink()
        eventually(lambda: row_steps(backend) == [1])
        run.close()
        _, rest = process.communicate(timeout=30)
    assert outage.startswith("warning: file: cannot be reached (the backend is down); retrying, ")
    assert rest == "file: reached again; 1 record delivered\n"
    assert process.returncode == 0


def test_after_ctrl_c_the_current_call_of_the_sink_is_completed(run: FileSinkRun, backend: Path) -> None:
    run.points(1)
    (backend / "slow").touch()
    with start_sync(run, "--follow") as process:
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


def test_ctrl_c_works_while_the_trainer_cannot_be_checked(tmp_path: Path, backend: Path) -> None:
    run = FileSinkRun(tmp_path / "run", backend, FOREIGN)
    run.points(1)
    with start_sync(run) as process:
        eventually(lambda: row_steps(backend) == [1])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 1


def test_unreadable_records_are_reported(run: FileSinkRun) -> None:
    run.points(1, 2)
    path = run.folder / "journal-0.jsonl"
    damaged = path.read_bytes().replace(b'"step":2', b'"step":7')
    run.close()
    path.write_bytes(damaged)
    result = telemetry("sync", run.folder, "--telemetry-sinks", "file")
    assert result.exit_code == 0
    assert "skipped in the journal: 1 damaged" in result.stdout
