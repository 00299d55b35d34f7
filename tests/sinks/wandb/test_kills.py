"""W&B's offline files over kills of any process, and over processes that are frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sinks.wandb import client_process
from sinks.wandb import sink as wandb_sink
from support.wandb_kit import cores, deliver, exit_codes, in_a_row, opened, rows, seqs, wait_for
from telemetry.sink_api import SinkUnavailable
from telemetry.testing.points import sample

# Runs that are dropped without a word leave threads of wandb's, which complain when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)

WRITE_ON = """
import itertools, pathlib, sys
from support.wandb_kit import opened
from telemetry.testing.points import sample
sink, found = opened(pathlib.Path(sys.argv[1]))
first = max(found.last_seq or 0, int(sys.argv[2])) + 1
for seq in itertools.count(first, 7):
    print(sink.sink_write(sample(seq, seq + 6)) or 0, flush=True)
"""


@contextmanager
def writer(folder: Path, durable: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that goes on writing, behind what is there or, where nobody can tell, what was durable."""
    command = [sys.executable, "-c", WRITE_ON, str(folder), str(durable)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def said(process: subprocess.Popen[str], lines: int) -> int:
    """What a writer called durable last, after so many batches."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(lines)][-1]


class TestKills:
    def test_after_a_kill_of_wandb_core_the_next_write_says_so_and_a_new_instance_goes_on(self, tmp_path: Path) -> None:
        sink, _ = opened(tmp_path)
        sink.sink_write(sample(1, 300))
        wait_for(lambda: rows(tmp_path))
        os.kill(*cores(), signal.SIGKILL)
        wait_for(lambda: not cores())
        with pytest.raises(SinkUnavailable, match="Connection"):  # noqa: PT012 - the first may be lost without a word
            for first in range(301, 400):
                sink.sink_write(sample(first, first))
                time.sleep(0.005)
        _, found = opened(tmp_path)
        assert 0 < (found.last_seq or 0) < 301
        deliver(tmp_path, sample(1, 500))
        assert seqs(tmp_path) == in_a_row(500)

    def test_after_a_kill_of_wandb_core_also_the_end_is_tried_again(self, tmp_path: Path) -> None:
        sink, _ = opened(tmp_path)
        sink.sink_write(sample(1, 10))
        os.kill(*cores(), signal.SIGKILL)
        wait_for(lambda: not cores())
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        deliver(tmp_path, sample(1, 10))
        assert seqs(tmp_path) == in_a_row(10)
        assert exit_codes(tmp_path) == [0]

    @pytest.mark.slow
    def test_ten_kills_in_a_row_lose_and_double_nothing(self, tmp_path: Path) -> None:
        safe = 0
        for turn in range(10):
            with writer(tmp_path, safe) as process:
                safe = max(safe, said(process, 1 + 13 * turn))
        last = max(safe, 1) + 50
        sink, found = opened(tmp_path)
        assert (found.last_seq or 0) >= safe
        sink.sink_write([record for record in sample(1, last) if record.seq > (found.last_seq or 0)])
        sink.sink_close("finished", "")
        assert seqs(tmp_path) == in_a_row(max(last, found.last_seq or 0))

    def test_a_core_that_outlives_its_delivery_frozen_cannot_add_to_what_is_there(self, tmp_path: Path) -> None:
        with writer(tmp_path) as process:
            said(process, 30)
            (core,) = cores(process.pid)
            os.kill(core, signal.SIGSTOP)
            said(process, 3)
        assert cores(process.pid) == [core]
        deliver(tmp_path, sample(1, 600))
        # It was killed when the next one looked; otherwise it would now write what it had.
        assert cores(process.pid) == []
        assert seqs(tmp_path) == in_a_row(600)

    def test_a_core_that_nobody_could_kill_writes_to_a_file_that_is_none_any_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink, _ = opened(tmp_path)
        sink.sink_write(sample(1, 300))
        (core,) = cores()
        os.kill(core, signal.SIGSTOP)
        # As on another machine.
        monkeypatch.setattr(client_process, "_kill", lambda *_: None)
        wandb_run = sink._run
        held = sink._place.look()  # type: ignore[attr-defined]
        os.kill(core, signal.SIGCONT)
        wandb_run.finish()
        assert sink._place.look().last_seq == held.last_seq  # type: ignore[attr-defined]
        monkeypatch.undo()
        deliver(tmp_path, sample(1, 400))
        assert seqs(tmp_path) == in_a_row(400)

    @pytest.mark.parametrize("hook", ["sink_write", "sink_close"])
    def test_a_core_that_is_frozen_holds_nobody_up_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str
    ) -> None:
        for name in ("_WRITE_TIMEOUT", "_FINISH_TIMEOUT", "_INIT_TIMEOUT"):
            monkeypatch.setattr(wandb_sink, name, 1.0)
        sink, _ = opened(tmp_path)
        sink.sink_write(sample(1, 10))
        os.kill(*cores(), signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            sink.sink_write(sample(11, 1000)) if hook == "sink_write" else sink.sink_close("finished", "")
        assert time.monotonic() - started < 10
        deliver(tmp_path, sample(1, 1000))
        assert seqs(tmp_path) == in_a_row(1000)

    def test_a_process_that_ends_with_an_open_run_leaves_its_rows_and_no_process(self, tmp_path: Path) -> None:
        script = WRITE_ON.replace("itertools.count(first, 7)", "range(1, 50, 7)") + "print(__import__('os').getpid())"
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), "0"], check=True, capture_output=True, text=True, timeout=60
        )
        assert cores(int(done.stdout.split()[-1])) == []
        assert seqs(tmp_path) == in_a_row(49)

    def test_a_core_that_died_at_its_start_is_not_asked_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import wandb

        real = wandb.init

        def die(**about: object) -> object:
            real(**about)  # type: ignore[arg-type]
            os.kill(*cores(), signal.SIGKILL)
            wait_for(lambda: not cores())
            raise ConnectionResetError("Connection lost")

        monkeypatch.setattr(wandb, "init", die)
        sink, _ = opened(tmp_path)
        with pytest.raises(SinkUnavailable):
            sink.sink_write(sample(1, 3))
        monkeypatch.undo()
        deliver(tmp_path, sample(1, 3))
        assert seqs(tmp_path) == [1, 2, 3]

    def test_a_note_that_could_not_be_written_is_not_needed_in_the_same_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        sink, _ = opened(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("sinks.wandb.client_process.private", full)
            with pytest.raises(SinkUnavailable, match="No space left"):
                sink.sink_write(sample(1, 3))
        deliver(tmp_path, sample(1, 3))
        assert seqs(tmp_path) == [1, 2, 3]
