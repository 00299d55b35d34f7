"""Whole runs with the W&B sink: a trainer and its delivery process, kills of both, and a later sync."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.wandb_kit import client_pids, exit_codes, rows, transaction_logs, wait_for
from telemetry import Metric, Settings, open_run
from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

TRAIN = """
import sys, time
from telemetry import Metric, Settings, open_run

options = {"wandb": {"mode": "offline"}}
settings = Settings(every=1, poll=0.2, options=options)
bus = open_run(sys.argv[1], metrics={"train/loss": Metric()}, sinks=["wandb"], settings=settings)
for step in range(1, 100_000):
    bus.publish("train", step, {"loss": 1 / step})
    if step % 50 == 0:
        bus.flush(10)
        print(step, flush=True)
        time.sleep(0.3)
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def deliveries_of(trainer: int) -> list[int]:
    """Return the delivery processes started by a trainer."""
    found = []
    for path in Path(f"/proc/{trainer}/task").glob("*/children"):
        for pid in map(int, path.read_text(encoding="ascii").split()):
            with contextlib.suppress(OSError):
                if b"telemetry.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
    return found


def journaled(folder: Path) -> list[tuple[int, int]]:
    """Return step and time of all points in the journal."""
    reader = JournalReader(folder)
    found = []
    while batch := reader.read(1000, live=False):
        found += [(record.step, record.time) for record in batch if isinstance(record, Scalars)]
    return found


def shown(folder: Path) -> list[tuple[int, int]]:
    return [(row["trainer/iteration"], round(row["_timestamp"] * 1000)) for row in rows(folder)]


@pytest.mark.slow
def test_after_kills_of_delivery_and_trainer_each_point_is_present_once_with_its_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed = []
    with subprocess.Popen([sys.executable, "-c", TRAIN, str(folder)], stdout=subprocess.PIPE, text=True) as trainer:
        try:
            for _ in range(2):
                wait_for(lambda: deliveries_of(trainer.pid))
                (delivery,) = deliveries_of(trainer.pid)
                wait_for(lambda: client_pids(delivery))  # noqa: B023 - called at once
                files = len(transaction_logs(folder))
                wait_for(lambda: len(rows(folder)) > 20 * files)  # noqa: B023 - likewise
                os.kill(delivery, signal.SIGKILL)
                killed.append(delivery)
                wait_for(lambda: delivery not in deliveries_of(trainer.pid))  # noqa: B023 - likewise
            wait_for(lambda: deliveries_of(trainer.pid))
            killed += deliveries_of(trainer.pid)
            wait_for(lambda: client_pids(killed[-1]))
        finally:
            trainer.kill()
            for delivery in deliveries_of(trainer.pid) or killed[-1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(delivery, signal.SIGKILL)
    done = subprocess.run(
        [sys.executable, "-m", "telemetry", "sync", str(folder)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert " 0 pending" in done.stdout
    assert shown(folder) == journaled(folder)
    assert len(shown(folder)) >= 50
    assert exit_codes(folder)[-1] == 137
    wait_for(lambda: not any(client_pids(delivery) for delivery in killed))


def test_a_run_is_delivered_when_close_returns_and_no_process_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = Settings(every=1, poll=0.2, options={"wandb": {"mode": "offline"}})
    with open_run(folder, metrics={"train/loss": Metric()}, sinks=["wandb"], settings=settings) as bus:
        for step in range(1, 101):
            bus.publish("train", step, {"loss": 1 / step})
        wait_for(lambda: deliveries_of(os.getpid()))
        (delivery,) = deliveries_of(os.getpid())
        receipt = bus.close()
    assert receipt is not None
    (sink,) = receipt.sinks
    assert (sink.delivered, sink.pending, sink.progress.state) == (100, 0, "closed")
    assert sink.progress.view.endswith("*")
    assert shown(folder) == journaled(folder)
    assert client_pids(delivery) == []
    assert not Path(f"/proc/{delivery}").exists()


def test_delivery_in_a_thread_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    settings = Settings(every=1, poll=0.05, delivery="thread", options={"wandb": {"mode": "offline"}})
    with open_run(folder, metrics={"train/loss": Metric()}, sinks=["wandb"], settings=settings) as bus:
        bus.publish("train", 1, {"loss": 1.0})
    assert shown(folder) == journaled(folder)
    assert capfd.readouterr() == ("", "")
