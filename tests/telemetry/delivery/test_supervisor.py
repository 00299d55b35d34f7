"""Deliveries beside a trainer: real processes that are killed, hang and crash; and threads."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
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
    Backend,
    MemorySink,
    eventually,
    journal_lines,
    journal_steps,
    lines_of,
    offer_sinks,
    row_seqs,
    row_steps,
)
from telemetry import MetricBus, Settings, open_run
from telemetry.cli import main as telemetry_command
from telemetry.recording.limits import RecordingLimits
from telemetry.run_folder.sink_progress import read_progress
from telemetry.sink_api import SinkUnavailable

Trainer = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """Give the folder that is the backend of the sink ``file``."""
    folder = tmp_path / "backend"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer two sinks for real, to this process and to those that it starts; look after deliveries more often."""
    site = tmp_path / "site"
    offer_sinks(site, file="support.telemetry_fakes:FileSink", other="support.telemetry_fakes:FileSink")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    monkeypatch.setattr("telemetry.recording.open_run.DEFAULT_LIMITS", RecordingLimits(supervise_interval=0.1))
    monkeypatch.setattr("telemetry.delivery.supervisor.FIRST_RESTART", 0.1)


@pytest.fixture(autouse=True)
def _no_process_left(tmp_path: Path) -> Iterator[None]:
    """End the deliveries that a test has left, by their ids."""
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

    def open_it(**more: Any) -> MetricBus:
        buses.append(open_run(run, metrics=METRICS, settings=settings(backend, **more)))
        return buses[-1]

    yield open_it
    for bus in buses:
        bus.close(timeout=0)


def publish(bus: MetricBus, *steps: int) -> None:
    for step in steps:
        bus.publish("train", step, {"loss": float(step)})


def pids(backend: Path) -> list[int]:
    """Give the processes that opened the sink, in order."""
    return [int(line.split()[0]) for line in lines_of(backend / "opened")]


def is_running(pid: int) -> bool:
    """Say whether a process is there, is a delivery, and is no zombie."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return b"telemetry.worker" in command and state not in "ZX"


def deliveries(site: Path) -> list[int]:
    """Give the delivery processes of this test, whichever sink they are for."""
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
    """Give a function that starts a trainer of its own process group, which does what it reads."""
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
        # Its group: a forked child is in it, a delivery is not.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trainer.pid, signal.SIGKILL)
        trainer.communicate()


def tell(trainer: subprocess.Popen[str], line: str) -> None:
    """Tell a trainer what to do, and wait until it is done."""
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    trainer.stdin.write(line + "\n")
    while (answer := trainer.stdout.readline()) != "done\n":
        assert answer, "the trainer has ended"


def sync(run: Path, *more: str) -> None:
    """Run ``telemetry sync`` in this process."""
    telemetry_command(["sync", str(run), "--telemetry-sinks", "file", *more], standalone_mode=False)


# The usual course.


def test_a_run_is_delivered_by_a_process_of_its_own_session_and_of_the_lowest_class(
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


def test_deliveries_are_started_with_the_first_record(open_bus: Callable[..., MetricBus], tmp_path: Path) -> None:
    bus = open_bus()
    assert not deliveries(tmp_path / "site")
    publish(bus, 1)
    assert bus.flush()
    assert deliveries(tmp_path / "site")


def test_deliveries_do_not_wait_for_a_record_for_ever(
    open_bus: Callable[..., MetricBus], backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.recording.open_run.DEFAULT_LIMITS", RecordingLimits(delivery_start_delay=0.0))
    open_bus()
    eventually(lambda: pids(backend))


def test_a_run_without_a_record_is_delivered_at_its_end(open_bus: Callable[..., MetricBus], backend: Path) -> None:
    open_bus().close("failed")
    assert lines_of(backend / "closed") == ["failed"]


def test_the_end_of_a_run_does_not_wait_for_the_next_poll(open_bus: Callable[..., MetricBus], backend: Path) -> None:
    bus = open_bus(poll=50.0)
    assert eventually(lambda: pids(backend))
    publish(bus, 1)
    began = time.monotonic()
    bus.close()
    assert time.monotonic() - began < 10
    assert lines_of(backend / "closed") == ["finished"]


# Deliveries that die.


def test_a_delivery_that_is_killed_is_started_again_and_nothing_is_lost_or_doubled(
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
    assert "ended with code -9 and will be started again" in caplog.text


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


def test_a_hook_that_hangs_costs_its_process_and_another_goes_on(
    open_bus: Callable[..., MetricBus], backend: Path, run: Path
) -> None:
    (backend / "hang").touch()
    bus = open_bus(hook_timeout=0.5)
    publish(bus, 1, 2)
    (hung,) = eventually(lambda: lines_of(backend / "hung"))
    (backend / "hang").unlink()
    assert bus.drain(30)
    assert not is_running(int(hung))
    assert "has not returned from a hook" in (run / "sinks" / "file.log").read_text()
    bus.close()
    assert row_steps(backend) == [1, 2]


def test_a_sink_that_crashes_does_not_touch_its_neighbour_nor_the_training(
    open_bus: Callable[..., MetricBus], backend: Path
) -> None:
    (backend / "crash").touch()
    bus = open_bus(sinks=("file", "other"), drain_timeout=1.0)
    other = backend.parent / "other"
    publish(bus, *range(1, 101))
    eventually(lambda: len(row_seqs(other)) == 100)
    receipt = bus.close()
    assert row_steps(other) == list(range(1, 101))
    assert lines_of(other / "closed") == ["finished"]
    assert receipt is not None
    assert [(sink.name, sink.delivered, sink.pending) for sink in receipt.sinks] == [
        ("file", 0, 100),
        ("other", 100, 0),
    ]
    assert "deliver the rest: telemetry sync" in str(receipt)


def test_a_delivery_that_cannot_be_started_is_tried_again(
    open_bus: Callable[..., MetricBus], backend: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    python = sys.executable
    monkeypatch.setattr("telemetry.delivery.supervisor.sys.executable", "/no/such/python")
    bus = open_bus()
    publish(bus, 1)
    eventually(lambda: "cannot be started" in caplog.text)
    monkeypatch.setattr("telemetry.delivery.supervisor.sys.executable", python)
    bus.close()
    assert row_steps(backend) == [1]


def test_a_delivery_that_refuses_the_run_is_not_started_again_and_says_so(
    open_bus: Callable[..., MetricBus], backend: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The delivery does not find the sink that its trainer has found.
    monkeypatch.setenv("PYTHONPATH", "")
    bus = open_bus()
    publish(bus, 1)
    eventually(lambda: "refuses the run" in caplog.text)
    began = time.monotonic()
    receipt = bus.close()
    assert time.monotonic() - began < 5
    assert receipt is not None
    assert [(sink.delivered, sink.pending) for sink in receipt.sinks] == [(0, 1)]
    assert "no sink 'file'" in lines_of(bus.folder / "sinks" / "file.log")[-1]


def test_a_delivery_that_keeps_dying_is_started_less_and_less_often(
    open_bus: Callable[..., MetricBus], backend: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from telemetry.delivery.supervisor import _Process
    from telemetry.plugins.registry import select

    now = [1000.0]
    monkeypatch.setattr("telemetry.delivery.supervisor.FIRST_RESTART", 1.0)
    monkeypatch.setattr("telemetry.delivery.supervisor.time.monotonic", lambda: now[0])
    (sink,) = select(["file"], {"file": {"backend": str(backend)}})
    worker = _Process(backend, sink, settings(backend))
    starts: list[float] = []

    class Dead:
        stdin = io.BytesIO()

        def poll(self) -> int:
            return 1

    def spawn() -> Any:
        starts.append(now[0])
        Dead.stdin = io.BytesIO()
        return Dead()

    monkeypatch.setattr(worker, "_spawn", spawn)
    worker.start()
    for _ in range(600):
        now[0] += 1.0
        worker.supervise()
    pauses = [round(b - a) for a, b in itertools.pairwise(starts)]
    assert pauses[:7] == sorted(pauses[:7])
    assert set(pauses[6:]) == {61}, "the pause has grown to a minute, and stays there"
    assert len(pauses) > 10
    assert caplog.text.count("will be started again") == 6, "and from then on it is not said any more"


# The trainer's death.


def test_when_the_trainer_is_killed_its_deliveries_finish_and_mark_the_run_and_end(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    trainer = start_trainer()
    tell(trainer, "publish 1 3000")
    trainer.kill()
    trainer.wait()
    eventually(lambda: lines_of(backend / "closed") == ["killed"])
    assert row_steps(backend) == journal_steps(run) == list(range(1, 3000))
    (pid,) = pids(backend)
    eventually(lambda: not is_running(pid))
    progress = read_progress(run, "file")
    assert progress is not None
    assert (progress.state, progress.cursor.closed) == ("closed", "killed")


def test_pipes_that_forked_children_hold_open_do_no_harm(start_trainer: Trainer, backend: Path) -> None:
    trainer = start_trainer()
    tell(trainer, "fork")
    tell(trainer, "publish 1 10")
    tell(trainer, "fork")
    trainer.kill()
    trainer.wait()
    eventually(lambda: lines_of(backend / "closed") == ["killed"])
    assert row_steps(backend) == list(range(1, 10))
    (pid,) = pids(backend)
    eventually(lambda: not is_running(pid))


def test_when_the_whole_job_is_killed_a_sync_delivers_the_rest_and_nothing_twice(
    start_trainer: Trainer, backend: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (backend / "down").touch()
    trainer = start_trainer()
    tell(trainer, "publish 1 500")
    eventually(lambda: (progress := read_progress(run, "file")) is not None and progress.retries)
    (backend / "down").unlink()
    eventually(lambda: row_seqs(backend))
    tell(trainer, "publish 500 1000")
    for pid in (trainer.pid, pids(backend)[-1]):
        os.kill(pid, signal.SIGKILL)
    trainer.wait()
    eventually(lambda: not is_running(pids(backend)[-1]))
    sync(run)
    assert row_steps(backend) == list(range(1, 1000))
    assert lines_of(backend / "closed") == ["killed"]
    assert "file: closed; 999 delivered, 0 left" in capsys.readouterr().out
    sync(run)
    assert row_steps(backend) == list(range(1, 1000))


def test_signals_that_a_delivery_gets_while_its_trainer_lives_are_ignored(
    start_trainer: Trainer, backend: Path
) -> None:
    trainer = start_trainer()
    tell(trainer, "publish 1 10")
    (pid,) = eventually(lambda: pids(backend))
    os.kill(pid, signal.SIGINT)
    tell(trainer, "publish 10 20")
    eventually(lambda: len(row_seqs(backend)) == 19)
    os.kill(pid, signal.SIGTERM)
    # As a trainer does that was asked to end together with its deliveries: it writes on, and closes its run.
    tell(trainer, "publish 20 30")
    tell(trainer, "close preempted")
    assert row_steps(backend) == list(range(1, 30))
    assert lines_of(backend / "closed") == ["preempted"]
    assert pids(backend) == [pid]


def test_a_delivery_that_lingers_with_a_dead_backend_can_be_ended_by_a_signal(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "down").touch()
    trainer = start_trainer(linger=600.0)
    tell(trainer, "publish 1 10")
    (pid,) = eventually(lambda: set(pids(backend)))
    trainer.kill()
    trainer.wait()
    eventually(lambda: (progress := read_progress(run, "file")) is not None and progress.retries > 1)
    assert is_running(pid)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not is_running(pid))
    assert lines_of(backend / "closed") == []


def test_a_delivery_with_a_dead_backend_ends_by_itself_after_linger(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "down").touch()
    trainer = start_trainer(linger=0.5)
    tell(trainer, "publish 1 10")
    (pid,) = eventually(lambda: set(pids(backend)))
    trainer.kill()
    trainer.wait()
    eventually(lambda: not is_running(pid))
    (backend / "down").unlink()
    sync(run)
    assert row_steps(backend) == list(range(1, 10))


def test_the_next_attempts_delivery_takes_over_from_an_orphan_that_cannot_deliver(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "down").touch()
    trainer = start_trainer(linger=600.0)
    tell(trainer, "publish 1 10")
    (orphan,) = eventually(lambda: set(pids(backend)))
    trainer.kill()
    trainer.wait()
    assert is_running(orphan)
    trainer = start_trainer(resume_step=5)
    (backend / "down").unlink()
    tell(trainer, "publish 6 12")
    tell(trainer, "close finished")
    eventually(lambda: not is_running(orphan))
    assert lines_of(backend / "closed") == ["finished"]
    # With the record of the resume from 5, and without what it superseded.
    assert row_steps(backend) == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11]


# The end, whatever the sinks do.


def test_a_hung_sink_holds_up_the_end_of_the_run_for_drain_timeout_and_no_longer(
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
    assert is_running(int(hung)), "it goes on without its trainer"


def test_a_trainer_with_a_hung_sink_that_never_closes_its_run_still_ends(
    start_trainer: Trainer, backend: Path, run: Path
) -> None:
    (backend / "hang").touch()
    trainer = start_trainer(drain_timeout=0.5)
    tell(trainer, "publish 1 10")
    eventually(lambda: lines_of(backend / "hung"))
    assert trainer.stdin is not None
    trainer.stdin.write("leave\n")
    assert trainer.wait(20) == 0
    assert lines_of(run.parent / "trainer.log") == []
    assert journal_lines(run)[-1]["status"] == "failed"


# Threads.


@pytest.fixture
def threaded(tmp_path: Path) -> Iterator[Callable[..., MetricBus]]:
    buses: list[MetricBus] = []

    def open_it(*sinks: object, **more: Any) -> MetricBus:
        some = Settings(**{"every": 1, "poll": 0.02, "drain_timeout": 5.0} | more)
        buses.append(open_run(tmp_path / "run", metrics=METRICS, sinks=sinks, settings=some))
        return buses[-1]

    yield open_it
    for bus in buses:
        bus.close(timeout=0)


def test_a_sink_object_is_delivered_to_from_a_thread(threaded: Callable[..., MetricBus]) -> None:
    memory = Backend()
    bus = threaded(MemorySink(memory))
    publish(bus, 1, 2, 3)
    assert bus.drain(10)
    assert memory.steps() == [1, 2, 3]
    bus.close()
    assert memory.closed == ["finished"]
    assert [t.name for t in threading.enumerate() if t.name.startswith("telemetry-")] == []


def test_a_named_sink_is_delivered_to_from_a_thread_on_request(
    open_bus: Callable[..., MetricBus], backend: Path
) -> None:
    bus = open_bus(delivery="thread")
    publish(bus, 1, 2)
    bus.close()
    assert row_steps(backend) == [1, 2]
    assert pids(backend) == [os.getpid()]


def test_a_thread_whose_sink_hangs_holds_up_neither_its_neighbour_nor_the_end(
    threaded: Callable[..., MetricBus], caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(60)

    hung, well = Backend(faults=[hang]), Backend(destination="well")
    bus = threaded(MemorySink(hung, "hung"), MemorySink(well, "well"), drain_timeout=0.5, hook_timeout=0.1)
    publish(bus, 1, 2)
    eventually(lambda: well.steps() == [1, 2])
    eventually(lambda: "hung has been in a hook" in caplog.text)
    began = time.monotonic()
    receipt = bus.close()
    assert time.monotonic() - began < 2.5
    release.set()
    assert receipt is not None
    assert [(sink.name, sink.pending) for sink in receipt.sinks] == [("hung", 2), ("well", 0)]
    assert well.closed == ["finished"]


def test_a_thread_whose_sink_fails_goes_on_when_it_is_well(
    threaded: Callable[..., MetricBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.delivery.delivery.FIRST_RETRY", 0.01)
    memory = Backend(down=SinkUnavailable("no network"))
    bus = threaded(MemorySink(memory))
    publish(bus, 1, 2)
    eventually(lambda: (progress := read_progress(bus.folder, "memory")) is not None and progress.retries > 2)
    memory.down = None
    assert bus.drain(10)
    bus.close()
    assert memory.steps() == [1, 2]


def test_a_thread_that_cannot_be_started_costs_no_point(
    threaded: Callable[..., MetricBus], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = threaded(MemorySink(Backend()))

    def start(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", start)
    publish(bus, 1, 2)
    assert bus.flush()
    monkeypatch.undo()
    receipt = bus.close()
    assert "cannot be started: can't start new thread" in caplog.text
    assert receipt is not None
    assert receipt.counts.journaled == 2


def test_drain_gives_up_after_its_timeout(threaded: Callable[..., MetricBus], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    memory = Backend(down=SinkUnavailable("no network"))
    bus = threaded(MemorySink(memory), drain_timeout=0.1)
    publish(bus, 1)
    began = time.monotonic()
    assert not bus.drain(0.3)
    assert time.monotonic() - began < 5


# All of it together.


@pytest.mark.slow
def test_in_tensorboard_a_run_that_was_killed_in_all_ways_and_resumed_is_one_curve(
    start_trainer: Trainer, backend: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    site = backend.parent / "site"
    trainer = start_trainer(sinks=("file", "tensorboard"))
    tell(trainer, "publish 1 400")
    eventually(lambda: len(deliveries(site)) == 2 and row_seqs(backend))
    first = deliveries(site)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    tell(trainer, "publish 400 900")
    eventually(lambda: len(set(deliveries(site)) - set(first)) == 2)
    # The whole job: the trainer and what delivers for it.
    for pid in (trainer.pid, *deliveries(site)):
        os.kill(pid, signal.SIGKILL)
    trainer.wait()
    trainer = start_trainer(resume_step=700, sinks=("file", "tensorboard"))
    tell(trainer, "publish 701 1200")
    # Now the trainer alone: what delivers for it outlives it, and ends by itself.
    trainer.kill()
    trainer.wait()
    eventually(lambda: not deliveries(site), timeout=60)
    telemetry_command(["sync", str(run), "--telemetry-sinks", "file,tensorboard"], standalone_mode=False)
    assert "tensorboard: closed; 1200 delivered, 0 left" in capsys.readouterr().out
    curves = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    curves.Reload()
    points = curves.Scalars("train/loss")
    assert [point.step for point in points] == list(range(1, 1200))
    assert [point.value for point in points] == [float(step) for step in range(1, 1200)]
    assert len(set(row_seqs(backend))) == len(row_seqs(backend))
    assert set(row_steps(backend)) == set(range(1, 1200))
