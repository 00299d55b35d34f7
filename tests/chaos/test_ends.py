"""Programs that end in many ways: all journaled records are delivered, and no process is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from support.chaos.backends import Recording
from support.chaos.processes import kill
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually, lines_of

pytestmark = pytest.mark.chaos

OPEN = """
import json, multiprocessing, os, signal, sys, threading, time
import msgspec, telemetry
given = json.loads(sys.argv[1])
def open_it():
    return telemetry.open_run(
        given["path"],
        metrics={"train/loss": telemetry.Metric()},
        settings=msgspec.convert(given["settings"], telemetry.Settings),
    )
def publish(bus, first=1, last=100):
    for step in range(first, last + 1):
        bus.publish("train", step, {"loss": 32768.0 + step})
def work(number):
    time.sleep(0.01)
    return number
"""
WITH = """
with open_it() as bus:
    publish(bus)
    bus.flush(30)
    print("published", flush=True)
"""
ENDS = {
    "an exception": (WITH + "    raise ValueError('a bad batch')", 1, "failed"),
    "sys.exit": (WITH + "    sys.exit(3)", 3, "failed"),
    "os._exit": (WITH + "    os._exit(4)", 4, "killed"),
    "SIGKILL": (WITH + "    os.kill(os.getpid(), signal.SIGKILL)", -9, "killed"),
    "an unhandled SIGTERM": (WITH + "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15, "killed"),
    "Ctrl-C": (WITH + "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -2, "failed"),
    "a segmentation fault": (WITH + "    os.kill(os.getpid(), signal.SIGSEGV)", -11, "killed"),
    "a bus that is never closed": ("bus = open_it(); publish(bus)", 0, "finished"),
    "a thread that publishes while the interpreter ends": (
        """
bus = open_it()
publish(bus)
bus.flush(30)
def publish_more():
    for step in range(101, 1 << 14):
        bus.publish("train", step, {"loss": 32768.0 + step})
threading.Thread(target=publish_more, daemon=True).start()
time.sleep(0.05)
""",
        0,
        "finished",
    ),
    "forked loader workers": (
        """
with open_it() as bus:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for start in range(1, 101, 10):
            pool.map(work, range(4))
            publish(bus, start, start + 9)
    orphan = os.fork()
    if not orphan:
        publish(bus, 101, 200)
        time.sleep(1.0)
        sys.exit()
""",
        0,
        "finished",
    ),
    "loader workers that are spawned": (
        """
with open_it() as bus:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for start in range(1, 101, 10):
            pool.map(abs, range(4))
            publish(bus, start, start + 9)
""",
        0,
        "finished",
    ),
}


@pytest.mark.parametrize("way", list(ENDS))
def test_a_program_loses_no_record_and_leaves_no_process_however_it_ends(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], way: str
) -> None:
    code, exit_code, status = ENDS[way]
    run = chaos_run(Recording())
    program = run.start_code(OPEN + code)
    program.communicate(timeout=PATIENCE)
    assert program.returncode == exit_code, run.stderr_of(program)
    run.wait_for_processes()
    steps = [record.step for record in run.records().values()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == 100 or (len(steps) > 100 and "thread" in way)
    run.compare()
    run.check()
    assert lines_of(run.folder / "file" / "closed") == [status]
    figures(f"exit code {exit_code}, closed as {status}")


def test_a_second_ctrl_c_stops_waiting_for_a_hung_sink(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), drain_timeout=600.0, linger=1.0)
    (run.folder / "file").mkdir()
    (run.folder / "file" / "hang").touch()
    program = run.start_code(OPEN + WITH + "    time.sleep(60)")
    assert program.stdout is not None
    assert program.stdout.readline() == "published\n"
    eventually(lambda: lines_of(run.folder / "file" / "hung"), PATIENCE)
    program.send_signal(signal.SIGINT)
    eventually(lambda: b'"closed"' in (run.run / "journal-0.jsonl").read_bytes(), PATIENCE)
    began = time.monotonic()
    # Repeat the signal: the second one may arrive while the first is still being handled.
    while program.poll() is None and time.monotonic() - began < PATIENCE:
        program.send_signal(signal.SIGINT)
        time.sleep(0.2)
    took = time.monotonic() - began
    assert program.returncode == -signal.SIGINT
    assert took < 20
    (run.folder / "file" / "hang").unlink()
    for pid in run.processes():
        kill(pid)
    run.wait_for_processes()
    run.sync()
    run.compare()
    run.check()
    figures(f"ends {took:.1f} s after the second")
