"""Delivery processes of a trainer: real processes that are killed, hang and crash."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.telemetry_fakes import (
    METRICS,
    eventually,
    journal_lines,
    journal_steps,
    lines_of,
    offer_sinks,
    row_seqs,
    row_steps,
)
from telemetry import MetricBus, Settings
from telemetry.cli import main as telemetry_command
from telemetry.delivery.process_worker import start_process
from telemetry.delivery.worker_protocol import STOP_SIGNALS
from telemetry.recording.limits import RecordingLimits
from telemetry.recording.open_run import start_run
from telemetry.recording.run_plan import plan_run
from telemetry.run_folder.sink_progress import read_progress

Trainer = Callable[..., "subprocess.Popen[str]"]
QUICK = RecordingLimits(supervise_interval=0.1)


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """The folder that serves as the backend of the sink ``file``."""
    folder = tmp_path / "backend"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install two sinks for this process and those it starts; supervise and restart deliveries quickly."""
    site = tmp_path / "site"
    offer_sinks(site, file="support.telemetry_fakes:FileSink", other="support.telemetry_fakes:FileSink")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    monkeypatch.setattr("telemetry.delivery.process_worker.RESTART_BACKOFF_INITIAL", 0.1)


@pytest.fixture(autouse=True)
def _no_process_left(tmp_path: Path) -> Iterator[None]:
    """Kill the deliveries left by a test, by their process IDs."""
    yield
    for pid in deliveries(tmp_path / "site"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def settings(backend: Path, **more: Any) -> Settings:
    options = {"file": {"backend": str(backend)}, "other": {"backend": str(backend.parent / "other")}}
    return Settings(**{"every": 1, "sinks": ("file",), "poll": 0.1, "linger": 30.0, "options": options} | more)


@pytest.fixture
def open_bus(run: Path, backend: Path) -> Iterator[Callable[..., MetricBus]]:
    buses: list[MetricBus] = []

    def open_it(limits: RecordingLimits = QUICK, **more: Any) -> MetricBus:
        buses.append(start_run(plan_run(run, metrics=METRICS, settings=settings(backend, **more)), limits))
        return buses[-1]

    yield open_it
    for bus in buses:
        bus.close(timeout=0)


def publish(bus: MetricBus, *steps: int) -> None:
    for step in steps:
        bus.publish("train", step, {"loss": float(step)})


def pids(backend: Path) -> list[int]:
    """Return the IDs of the processes that opened the sink, in order."""
    return [int(line.split()[0]) for line in lines_of(backend / "opened")]


def is_running(pid: int) -> bool:
    """Return whether a process is a running delivery."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return b"telemetry.worker" in command and state not in "ZX"


def deliveries(site: Path) -> list[int]:
    """Return the IDs of the delivery processes of this test, for any sink."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and is_running(int(entry.name)) and str(site).encode() in _environment(entry):
                found.append(int(entry.name))
    return found


def _environment(process: Path) -> bytes:
    return (process / "environ").read_bytes()


TRAINER = """
import json, sys, threading
from pathlib import Path
import msgspec, telemetry
given = json.loads(sys.argv[1])
if __name__ == "__main__":
    bus = telemetry.open_run(
        given["run"],
        metrics={"train/loss": telemetry.Metric()},
        settings=msgspec.convert(given["settings"], telemetry.Settings),
        resume_step=given.get("resume_step"),
    )
    print("open", flush=True)
    for line in sys.stdin:
        word, *numbers = line.split()
        if word == "publish":
            for step in range(int(numbers[0]), int(numbers[1])):
                bus.publish("train", step, {"loss": float(step)})
            bus.flush(30)
        elif word == "fork":
            import os, time
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
        elif word == "close":
            print(bus.close(numbers[0]), flush=True)
        elif word == "leave":
            break
        print("done", flush=True)
"""


@pytest.fixture
def start_trainer(run: Path, backend: Path) -> Iterator[Trainer]:
    """Start trainers in separate process groups, which execute the commands they read."""
    trainers: list[subprocess.Popen[str]] = []

    def start(resume_step: int | None = None, **more: Any) -> subprocess.Popen[str]:
        chosen = msgspec.to_builtins(settings(backend, **more))
        given = {"run": str(run), "settings": chosen, "resume_step": resume_step}
        with (run.parent / "trainer.log").open("a") as log:
            trainers.append(
                subprocess.Popen(
                    [sys.executable, "-c", TRAINER, json.dumps(given)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    bufsize=1,
                    process_group=0,
                )
            )
        assert trainers[-1].stdout is not None
        assert trainers[-1].stdout.readline() == "open\n"
        return trainers[-1]

    yield start
    for trainer in trainers:
        # Its process group contains forked children, but not deliveries.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trainer.pid, signal.SIGKILL)
        trainer.communicate()


def send(trainer: subprocess.Popen[str], line: str) -> None:
    """Send a command to a trainer and wait until it has been executed."""
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    trainer.stdin.write(line + "\n")
    while (answer := trainer.stdout.readline()) != "done\n":
        assert answer, "the trainer has ended"


def sync(run: Path, *more: str) -> None:
    """Run ``telemetry sync`` in this process."""
    telemetry_command(["sync", str(run), "--telemetry-sinks", "file", *more], standalone_mode=False)


# Normal operation.


def test_a_run_is_delivered_by_a_process_in_a_separate_session_with_the_lowest_priority(
    open_bus: Callable[..., MetricBus], backend: Path, run: Path
) -> None:
    bus = open_bus()
    publish(bus, 1, 2, 3)
    assert bus.drain(20)
    (pid,) = pids(backend)
    assert is_running(pid)
    assert stat.S_IMODE((run / "sinks" / "file.log").stat().st_mode) == 0o600
    assert os.getsid(pid) == pid != os.getsid(0)
    (policy,) = [int(line.split()[2]) for line in lines_of(backend / "opened")]
    assert policy == os.SCHED_IDLE
    publish(bus, *range(4, 101))
    receipt = bus.close()
    assert row_steps(backend) == list(range(1, 101))
    assert lines_of(backend / "closed") == ["finished"]
    assert not is_running(pid)
    assert receipt is not None
    assert [(sink.name, sink.delivered, sink.pending) for sink in receipt.sinks] == [("file", 100, 0)]


def test_deliveries_start_with_the_first_record(open_bus: Callable[..., MetricBus], tmp_path: Path) -> None:
    bus = open_bus()
    assert not deliveries(tmp_path / "site")
    publish(bus, 1)
    assert bus.flush()
    assert deliveries(tmp_path / "site")


def test_deliveries_do_not_wait_for_a_record_for_ever(open_bus: Callable[..., MetricBus], backend: Path) -> None:
    open_bus(RecordingLimits(delivery_start_delay=0.0))
    eventually(lambda: pids(backend))


def test_a_run_without_records_is_delivered_at_its_end(open_bus: Callable[..., MetricBus], backend: Path) -> None:
    open_bus().close("failed")
    assert lines_of(backend / "closed") == ["failed"]


def test_the_end_of_a_run_does_not_wait_for_the_next_poll(open_bus: Callable[..., MetricBus], backend: Path) -> None:
    bus = open_bus(poll=50.0)
    publish(bus, 1)
    eventually(lambda: row_steps(backend) == [1])
    publish(bus, 2)
    began = time.monotonic()
    bus.close()
    assert time.monotonic() - began < 10
    assert row_steps(backend) == [1, 2]
    assert lines_of(backend / "closed") == ["finished"]


# Deliveries that die.


def test_a_killed_delivery_is_restarted_and_nothing_is_lost_or_duplicated(
    open_bus: Callable[..., MetricBus], backend: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus()
    publish(bus, *range(1, 500))
    first = eventually(lambda: pids(backend))[0]
    os.kill(first, signal.SIGKILL)
    publish(bus, *range(500, 1000))
    assert len(eventually(lambda: len(pids(backend)) == 2 and pids(backend))) == 2
    bus.close()
    assert row_steps(backend) == list(range(1, 1000))
    assert lines_of(backend / "closed") == ["finished"]
    assert "file: delivery ended with code -9 and will be restarted" in caplog.text


def test_a_delivery_that_is_killed_while_the_run_is_being_closed_is_started_again(
    open_bus: Callable[..., MetricBus], backend: Path, run: Path
) -> None:
    (backend / "hang").touch()
    bus = open_bus()
    publish(bus, 1, 2, 3)
    (hung,) = eventually(lambda: lines_of(backend / "hung"))
    closing = threading.Thread(target=bus.close)
    closing.start()
    eventually(lambda: b'"closed"' in (run / "journal-0.jsonl").read_bytes())
    (backend / "hang").unlink()
    os.kill(int(hung), signal.SIGKILL)
    closing.join()
    assert row_steps(backend) == [1, 2, 3]
    assert lines_of(backend / "closed") == ["finished"]


def test_a_process_with_a_hung_hook_is_replaced_by_another(
    open_bus: Callable[..., MetricBus], backend: Path, run: Path
) -> None:
    (backend / "hang").touch()
    bus = open_bus(hook_timeout=0.5)
    publish(bus, 1, 2)
    (hung,) = eventually(lambda: lines_of(backend / "hung"))
    (backend / "hang").unlink()
    assert bus.drain(30)
    assert not is_running(int(hung))
    assert "a hook of file has not returned" in (run / "sinks" / "file.log").read_text()
    bus.close()
    assert row_steps(backend) == [1, 2]


def test_a_crashing_sink_affects_neither_another_sink_nor_the_training(
    open_bus: Callable[..., MetricBus], backend: Path
) -> None:
    (backend / "crash").touch()
    bus = open_bus(sinks=("file", "other"), drain_timeout=1.0)
    other = backend.parent / "other"
    publish(bus, *range(1, 101))
    eventually(lambda: len(row_seqs(other)) == 100)
    receipt = bus.close()
    assert row_steps(other) == list(range(1, 101))
    eventually(lambda: lines_of(other / "closed") == ["finished"])
    assert receipt is not None
    assert [(sink.name, sink.delivered, sink.pending) for sink in receipt.sinks] == [
        ("file", 0, 100),
        ("other", 100, 0),
    ]
    # The crashed process may just have been replaced by another.
    assert re.search(r"deliver the rest( once no process is delivering)?: telemetry sync", str(receipt))


def test_an_outage_and_the_recovery_of_one_of_two_sinks_are_logged_by_the_trainer(
    open_bus: Callable[..., MetricBus], backend: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "telemetry")
    (backend / "down").touch()
    bus = open_bus(RecordingLimits(supervise_interval=0.1, outage_delay=0.3), sinks=("file", "other"))
    publish(bus, 1, 2, 3)
    eventually(lambda: "cannot be reached" in caplog.text)
    (backend / "down").unlink()
    receipt = bus.close()
    assert receipt is not None
    assert [sink.pending for sink in receipt.sinks] == [0, 0]
    outage, recovery = (record.getMessage() for record in caplog.records)
    assert outage == ("file: cannot be reached (the backend is down); retrying, records stay in the journal")
    assert recovery.startswith("file: reached again; ")


def test_a_delivery_that_cannot_load_its_sink_is_not_restarted_and_this_is_logged(
    open_bus: Callable[..., MetricBus], backend: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The sink is installed for the trainer, but not for the delivery.
    monkeypatch.setenv("PYTHONPATH", "")
    bus = open_bus()
    publish(bus, 1)
    eventually(lambda: "file: delivery cannot start" in caplog.text)
    began = time.monotonic()
    receipt = bus.close()
    assert time.monotonic() - began < 5
    assert receipt is not None
    assert [(sink.delivered, sink.pending) for sink in receipt.sinks] == [(0, 1)]
    assert "no sink 'file'" in lines_of(bus.folder / "sinks" / "file.log")[-1]


# The death of the trainer.


def test_when_the_trainer_is_killed_its_deliveries_finish_close_the_run_as_killed_and_end(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    trainer = start_trainer()
    send(trainer, "publish 1 3000")
    trainer.kill()
    trainer.wait()
    eventually(lambda: lines_of(backend / "closed") == ["killed"])
    assert row_steps(backend) == journal_steps(run) == list(range(1, 3000))
    (pid,) = pids(backend)
    eventually(lambda: not is_running(pid))
    progress = read_progress(run, "file")
    assert progress is not None
    assert (progress.state, progress.cursor.closed) == ("closed", "killed")


def test_pipes_held_open_by_forked_children_are_harmless(start_trainer: Trainer, backend: Path) -> None:
    trainer = start_trainer()
    send(trainer, "fork")
    send(trainer, "publish 1 10")
    send(trainer, "fork")
    trainer.kill()
    trainer.wait()
    eventually(lambda: lines_of(backend / "closed") == ["killed"])
    assert row_steps(backend) == list(range(1, 10))
    (pid,) = pids(backend)
    eventually(lambda: not is_running(pid))


def test_when_the_whole_job_is_killed_a_sync_delivers_the_rest_once(
    start_trainer: Trainer, backend: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (backend / "down").touch()
    trainer = start_trainer()
    send(trainer, "publish 1 500")
    eventually(lambda: (progress := read_progress(run, "file")) is not None and progress.retries)
    (backend / "down").unlink()
    eventually(lambda: row_seqs(backend))
    send(trainer, "publish 500 1000")
    for pid in (trainer.pid, pids(backend)[-1]):
        os.kill(pid, signal.SIGKILL)
    trainer.wait()
    eventually(lambda: not is_running(pids(backend)[-1]))
    sync(run)
    assert row_steps(backend) == list(range(1, 1000))
    assert lines_of(backend / "closed") == ["killed"]
    assert "file: closed; 999 delivered, 0 pending" in capsys.readouterr().out
    sync(run)
    assert row_steps(backend) == list(range(1, 1000))


def test_a_delivery_ignores_signals_while_its_trainer_is_alive(start_trainer: Trainer, backend: Path) -> None:
    trainer = start_trainer()
    send(trainer, "publish 1 10")
    (pid,) = eventually(lambda: pids(backend))
    os.kill(pid, signal.SIGINT)
    send(trainer, "publish 10 20")
    eventually(lambda: len(row_seqs(backend)) == 19)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
    # A trainer that receives SIGTERM together with its deliveries keeps publishing and then closes its run.
    send(trainer, "publish 20 30")
    send(trainer, "close preempted")
    assert row_steps(backend) == list(range(1, 30))
    assert lines_of(backend / "closed") == ["preempted"]
    assert pids(backend) == [pid]


def test_the_wait_for_delivery_processes_can_be_limited_while_it_lasts(
    open_bus: Callable[..., MetricBus], backend: Path
) -> None:
    (backend / "down").touch()
    bus = open_bus(drain_timeout=60.0)
    publish(bus, 1)
    threading.Timer(0.3, bus.limit_drain, [0.1]).start()
    began = time.monotonic()
    receipt = bus.close()
    assert time.monotonic() - began < 30
    assert receipt is not None
    assert receipt.sinks[0].pending == 1


def test_a_signal_to_a_delivery_that_has_just_been_started_does_not_end_it(tmp_path: Path) -> None:
    process = start_process(tmp_path / "sinks/file.log")
    for number in STOP_SIGNALS:
        process.send_signal(number)
    # It reads its job before it can handle signals.
    process.communicate(b"{}")
    assert process.returncode not in {-number for number in STOP_SIGNALS}
    assert "ValidationError" in (tmp_path / "sinks/file.log").read_text()


def test_a_lingering_delivery_can_be_ended_by_a_signal(start_trainer: Trainer, backend: Path, run: Path) -> None:
    (backend / "down").touch()
    trainer = start_trainer(linger=600.0)
    send(trainer, "publish 1 10")
    (pid,) = eventually(lambda: set(pids(backend)))
    trainer.kill()
    trainer.wait()
    eventually(lambda: (progress := read_progress(run, "file")) is not None and progress.retries > 1)
    assert is_running(pid)
    os.kill(pid, signal.SIGUSR1)
    eventually(lambda: not is_running(pid))
    assert lines_of(backend / "closed") == []


def test_a_delivery_to_an_unreachable_backend_ends_after_linger(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "down").touch()
    trainer = start_trainer(linger=0.5)
    send(trainer, "publish 1 10")
    (pid,) = eventually(lambda: set(pids(backend)))
    trainer.kill()
    trainer.wait()
    eventually(lambda: not is_running(pid))
    (backend / "down").unlink()
    sync(run)
    assert row_steps(backend) == list(range(1, 10))


def test_the_delivery_of_the_next_attempt_takes_over_from_an_orphan(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "down").touch()
    trainer = start_trainer(linger=600.0)
    send(trainer, "publish 1 10")
    (orphan,) = eventually(lambda: set(pids(backend)))
    trainer.kill()
    trainer.wait()
    assert is_running(orphan)
    trainer = start_trainer(resume_step=5)
    (backend / "down").unlink()
    send(trainer, "publish 6 12")
    send(trainer, "close finished")
    eventually(lambda: not is_running(orphan))
    assert lines_of(backend / "closed") == ["finished"]
    # Includes the record of the resume from 5, but not the superseded ones.
    assert row_steps(backend) == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11]


# The end of a run with a hung sink.


def test_a_hung_sink_delays_the_end_of_the_run_by_no_more_than_the_drain_timeout(
    open_bus: Callable[..., MetricBus], backend: Path
) -> None:
    (backend / "hang").touch()
    bus = open_bus(sinks=("file", "other"), drain_timeout=1.0)
    publish(bus, 1, 2, 3)
    (hung,) = eventually(lambda: lines_of(backend / "hung"))
    eventually(lambda: len(row_seqs(backend.parent / "other")) == 3)
    began = time.monotonic()
    receipt = bus.close()
    assert 1.0 <= time.monotonic() - began < 3.0
    assert receipt is not None
    assert [(sink.name, sink.pending) for sink in receipt.sinks] == [("file", 3), ("other", 0)]
    assert is_running(int(hung)), "it outlives its trainer"


def test_a_trainer_with_a_hung_sink_exits_without_closing_its_run(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "hang").touch()
    trainer = start_trainer(drain_timeout=0.5)
    send(trainer, "publish 1 10")
    eventually(lambda: lines_of(backend / "hung"))
    assert trainer.stdin is not None
    trainer.stdin.write("leave\n")
    assert trainer.wait(20) == 0
    assert lines_of(run.parent / "trainer.log") == []
    assert journal_lines(run)[-1]["status"] == "finished"


# Everything together.


@pytest.mark.slow
def test_tensorboard_shows_one_curve_after_kills_of_all_kinds_and_a_resume(
    start_trainer: Trainer, backend: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    site = backend.parent / "site"
    trainer = start_trainer(sinks=("file", "tensorboard"))
    send(trainer, "publish 1 400")
    eventually(lambda: len(deliveries(site)) == 2 and row_seqs(backend))
    first = deliveries(site)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    send(trainer, "publish 400 900")
    eventually(lambda: len(set(deliveries(site)) - set(first)) == 2)
    # The whole job: the trainer and its deliveries.
    for pid in (trainer.pid, *deliveries(site)):
        os.kill(pid, signal.SIGKILL)
    trainer.wait()
    trainer = start_trainer(resume_step=700, sinks=("file", "tensorboard"))
    send(trainer, "publish 701 1200")
    # The trainer alone: its deliveries outlive it and end by themselves.
    trainer.kill()
    trainer.wait()
    eventually(lambda: not deliveries(site), timeout=60)
    telemetry_command(["sync", str(run), "--telemetry-sinks", "file,tensorboard"], standalone_mode=False)
    assert "tensorboard: closed; 1200 delivered, 0 pending" in capsys.readouterr().out
    curves = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    curves.Reload()
    points = curves.Scalars("train/loss")
    assert [point.step for point in points] == list(range(1, 1200))
    assert [point.value for point in points] == [float(step) for step in range(1, 1200)]
    assert len(set(row_seqs(backend))) == len(row_seqs(backend))
    assert set(row_steps(backend)) == set(range(1, 1200))


def test_a_named_pipe_in_place_of_a_log_delays_neither_training_nor_its_end(
    open_bus: Callable[..., MetricBus], backend: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "sinks").mkdir(parents=True)
    os.mkfifo(run / "sinks" / "file.log")
    bus = open_bus(drain_timeout=1.0)
    publish(bus, 1, 2)
    eventually(lambda: "file: cannot start delivery" in caplog.text)
    assert "not a regular file but a named pipe" in caplog.text
    receipt = bus.close(timeout=0.5)
    assert receipt is not None
    assert journal_steps(run) == [1, 2]
    assert [(sink.delivered, sink.pending) for sink in receipt.sinks] == [(0, 2)]


@pytest.mark.parametrize(("mode", "permissions"), [("private", "0o600"), ("group", "0o640")])
def test_a_delivery_process_creates_files_with_the_permissions_of_the_run(
    open_bus: Callable[..., MetricBus], backend: Path, run: Path, mode: str, permissions: str
) -> None:
    bus = open_bus(mode=mode)
    publish(bus, 1)
    bus.close()
    files = [path for folder in (run, backend) for path in folder.rglob("*") if path.is_file()]
    assert {"rows", "journal-0.jsonl", "file.log", "file.json"} <= {path.name for path in files}
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {permissions}
