"""Offline runs survive kills and suspensions of any process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sinks.wandb.client_process import kill_clients_of_run
from sinks.wandb.timeouts import Timeouts
from support.wandb_kit import client_pids, deliver, exit_codes, numbers_up_to, open_sink, rows, seqs, wait_for
from telemetry.sink_api import SinkUnavailable
from telemetry.testing.points import sample

# Runs that were never finished leave threads of wandb, which raise errors when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)

KEEP_WRITING = """
import itertools, pathlib, sys
from support.wandb_kit import open_sink
from telemetry.testing.points import sample
sink, found = open_sink(pathlib.Path(sys.argv[1]))
first = max(found.last_seq or 0, int(sys.argv[2])) + 1
for seq in itertools.count(first, 7):
    print(sink.sink_write(sample(seq, seq + 6)) or 0, flush=True)
"""


@contextmanager
def writer(folder: Path, durable: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run a process that keeps writing after the last stored row or, if that is unknown, after ``durable``."""
    command = [sys.executable, "-c", KEEP_WRITING, str(folder), str(durable)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def last_durable(process: subprocess.Popen[str], batches: int) -> int:
    """Return the last number that a writer confirmed as durable, after the given number of batches."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(batches)][-1]


def suspend(folder: Path, *pids: int) -> None:
    """Suspend a writer and its client, but not within the writer's atomic write.

    A delivery removes the temporary file, so that the writer fails when it continues.
    """
    while True:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(
            lambda: all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids)
        )
        if not list(folder.glob(".*.tmp")):
            return
        resume(*pids)


def resume(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


class TestKills:
    def test_after_a_kill_of_the_client_writing_fails_and_a_new_instance_continues(self, tmp_path: Path) -> None:
        sink, _ = open_sink(tmp_path)
        sink.sink_write(sample(1, 300))
        wait_for(lambda: rows(tmp_path))
        os.kill(*client_pids(), signal.SIGKILL)
        wait_for(lambda: not client_pids())
        with pytest.raises(SinkUnavailable, match="Connection"):  # noqa: PT012 - the first write may still succeed
            for first in range(301, 400):
                sink.sink_write(sample(first, first))
                time.sleep(0.005)
        _, found = open_sink(tmp_path)
        assert 0 < (found.last_seq or 0) < 301
        deliver(tmp_path, sample(1, 500))
        assert seqs(tmp_path) == numbers_up_to(500)

    def test_after_a_kill_of_the_client_closing_is_retried(self, tmp_path: Path) -> None:
        sink, _ = open_sink(tmp_path)
        sink.sink_write(sample(1, 10))
        os.kill(*client_pids(), signal.SIGKILL)
        wait_for(lambda: not client_pids())
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        deliver(tmp_path, sample(1, 10))
        assert seqs(tmp_path) == numbers_up_to(10)
        assert exit_codes(tmp_path) == [0]

    @pytest.mark.slow
    def test_ten_consecutive_kills_lose_and_duplicate_nothing(self, tmp_path: Path) -> None:
        safe = 0
        for turn in range(10):
            with writer(tmp_path, safe) as process:
                safe = max(safe, last_durable(process, 1 + 13 * turn))
        last = max(safe, 1) + 50
        sink, found = open_sink(tmp_path)
        assert (found.last_seq or 0) >= safe
        sink.sink_write([record for record in sample(1, last) if record.seq > (found.last_seq or 0)])
        sink.sink_close("finished", "")
        assert seqs(tmp_path) == numbers_up_to(max(last, found.last_seq or 0))

    def test_a_suspended_client_left_over_from_a_killed_delivery_adds_no_rows(self, tmp_path: Path) -> None:
        with writer(tmp_path) as process:
            last_durable(process, 30)
            (core,) = client_pids(process.pid)
            os.kill(core, signal.SIGSTOP)
            last_durable(process, 3)
        assert client_pids(process.pid) == [core]
        deliver(tmp_path, sample(1, 600))
        # The next delivery killed it; otherwise it would later write the rows it had in memory.
        assert client_pids(process.pid) == []
        assert seqs(tmp_path) == numbers_up_to(600)

    def test_a_client_that_could_not_be_killed_writes_to_a_deleted_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with writer(tmp_path) as process:
            last_durable(process, 30)
            (client,) = client_pids(process.pid)
            suspend(tmp_path, process.pid, client)
            # As if it ran on another machine.
            monkeypatch.setattr("sinks.wandb.sink.kill_clients_of_run", lambda *_: None)
            _, found = open_sink(tmp_path)
            monkeypatch.undo()
            resume(process.pid, client)
            last_durable(process, 200)
            assert client_pids(process.pid) == [client]
            assert open_sink(tmp_path)[1].last_seq == found.last_seq
        last = max(600, found.last_seq or 0)
        deliver(tmp_path, sample(1, last))
        assert seqs(tmp_path) == numbers_up_to(last)

    @pytest.mark.parametrize("hook", ["sink_write", "sink_close"])
    def test_a_suspended_client_blocks_no_hook_forever(self, tmp_path: Path, hook: str) -> None:
        sink, _ = open_sink(tmp_path, timeouts=Timeouts(init=1.0, write=1.0, finish=1.0))
        sink.sink_write(sample(1, 10))
        os.kill(*client_pids(), signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            sink.sink_write(sample(11, 1000)) if hook == "sink_write" else sink.sink_close("finished", "")
        assert time.monotonic() - started < 10
        deliver(tmp_path, sample(1, 1000))
        assert seqs(tmp_path) == numbers_up_to(1000)

    def test_a_process_that_exits_with_an_open_run_leaves_its_rows_and_no_client(self, tmp_path: Path) -> None:
        script = (
            KEEP_WRITING.replace("itertools.count(first, 7)", "range(1, 50, 7)") + "print(__import__('os').getpid())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), "0"], check=True, capture_output=True, text=True, timeout=60
        )
        assert client_pids(int(done.stdout.split()[-1])) == []
        assert seqs(tmp_path) == numbers_up_to(49)

    def test_a_client_that_died_at_its_start_is_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import wandb

        real = wandb.init

        def die(**arguments: object) -> object:
            real(**arguments)  # type: ignore[arg-type]
            os.kill(*client_pids(), signal.SIGKILL)
            wait_for(lambda: not client_pids())
            raise ConnectionResetError("Connection lost")

        monkeypatch.setattr(wandb, "init", die)
        sink, _ = open_sink(tmp_path)
        with pytest.raises(SinkUnavailable):
            sink.sink_write(sample(1, 3))
        monkeypatch.undo()
        deliver(tmp_path, sample(1, 3))
        assert seqs(tmp_path) == [1, 2, 3]

    def test_clients_of_other_runs_are_not_killed_whatever_the_run_folder_says(self, tmp_path: Path) -> None:
        with writer(tmp_path / "other") as process:
            last_durable(process, 3)
            (client,) = client_pids(process.pid)
            folder = tmp_path / "received"
            run_id = open_sink(folder)[1].destination.rpartition(" ")[2]
            # Up to version 0.1, such a note named the client to be killed.
            note = f"{socket.gethostname()} {process.pid} {client}\n"
            (folder / f".{run_id}.core").write_text(note, encoding="utf-8")
            link = folder / "wandb" / f"offline-run-20260131_235959-{run_id}"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(next((tmp_path / "other" / "wandb").glob("offline-run-*")))
            kill_clients_of_run(folder / "wandb", run_id)
            assert client_pids(process.pid) == [client]
            last_durable(process, 3)
