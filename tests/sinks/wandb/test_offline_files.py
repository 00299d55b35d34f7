"""Offline files that are truncated or damaged, or were synced or removed by wandb's own commands."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from sinks.wandb import offline_files
from support.wandb_kit import (
    client_pids,
    deliver,
    numbers_up_to,
    open_sink,
    rows,
    seqs,
    sync,
    transaction_logs,
    wait_for,
    wandb_cli,
)
from support.wandb_server import WandbServer
from telemetry.sink_api import SinkUnavailable
from telemetry.testing.points import sample

# Runs that were never finished leave threads of wandb, which raise errors when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an unfinished file with 700 rows in several blocks."""
    folder = tmp_path_factory.mktemp("whole")
    sink, _ = open_sink(folder)
    sink.sink_write(sample(1, 700))
    (path,) = transaction_logs(folder)
    wait_for(lambda: path.stat().st_size > 3 << 15)
    os.kill(*client_pids(), signal.SIGKILL)
    wait_for(lambda: not client_pids())
    return path


BLOCK = 1 << 15
CUTS = {
    "empty": 0,
    "in the header": 3,
    "header only": 7,
    "in the header of the first record": 10,
    "in the first record": 200,
    "at the end of a block": BLOCK,
    "in the header of a block's first fragment": BLOCK + 3,
    "in a fragment that ends a block": 2 * BLOCK - 30,
    "anywhere": 2 * BLOCK + 4321,
    "nowhere": 1 << 40,
}
SYNCED = ["in the first record", "in a fragment that ends a block", "anywhere", "nowhere"]


class TestDamagedFiles:
    @pytest.mark.parametrize(
        ("cut", "tail"),
        [*((cut, "") for cut in CUTS), ("nowhere", "zeros"), *((cut, "garbage") for cut in SYNCED)],
    )
    def test_a_truncated_file_is_repaired_and_all_rows_are_synced_once(
        self, tmp_path: Path, whole: Path, wandb_server: WandbServer, cut: str, tail: str
    ) -> None:
        folder = tmp_path / whole.parents[2].name
        path = folder / "wandb" / whole.parent.name / whole.name
        path.parent.mkdir(parents=True)
        data = whole.read_bytes()[: CUTS[cut]]
        path.write_bytes(data + {"": b"", "zeros": bytes(5000), "garbage": b"\x01\x7f\xff" * 999}[tail])
        deliver(folder, sample(1, 800), "failed")
        assert seqs(folder) == numbers_up_to(800)
        # Only some, because a sync takes a second.
        if tail == "garbage":
            output = sync(folder)
            assert len(wandb_server.runs) == 1, output
            (run,) = wandb_server.runs.values()
            assert [row["telemetry/seq"] for row in run.history] == numbers_up_to(800)
            assert [row["_step"] for row in run.history] == sorted({row["_step"] for row in run.history})
            assert run.exit_code == 1

    def test_damage_to_any_byte_loses_only_the_rows_after_it(self, whole: Path, tmp_path: Path) -> None:
        data = whole.read_bytes()
        path = tmp_path / whole.name
        read = []
        for position in range(BLOCK - 300, BLOCK + 300, 7):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0x41]) + data[position + 1 :])
            log = offline_files.TransactionLog(path)
            read.append(log.read().last_seq or 0)
            assert log.end <= position
        assert read == sorted(read)

    def test_a_file_read_while_it_grows_yields_its_complete_records(self, whole: Path, tmp_path: Path) -> None:
        data = whole.read_bytes()
        path = tmp_path / whole.name
        path.write_bytes(b"")
        log = offline_files.TransactionLog(path)
        with path.open("ab", buffering=0) as file:
            for start in range(0, 3 * BLOCK, 997):
                file.write(data[start : start + 997])
                log.read()
        once = offline_files.TransactionLog(path)
        assert log.read() == once.read()
        assert log.end == once.end

    def test_syncing_makes_the_file_durable(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[Path] = []
        monkeypatch.setattr("os.fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
        offline_files.TransactionLog(whole).sync()
        assert synced == [whole]

    def test_the_file_of_a_finished_run_is_not_replaced(self, tmp_path: Path) -> None:
        deliver(tmp_path, sample(1, 3))
        (path,) = transaction_logs(tmp_path)
        before = path.stat()
        assert open_sink(tmp_path)[1].last_seq == 3
        assert path.stat() == before

    @pytest.mark.parametrize("marks", [{".syncstate": 100}, {".syncstate": 100, ".synced": 300}, {".synced": 200}])
    def test_records_added_after_a_sync_began_are_cut_off(
        self, whole: Path, tmp_path: Path, marks: dict[str, int]
    ) -> None:
        data = whole.read_bytes()
        path = tmp_path / whole.name
        path.write_bytes(data[:BLOCK])
        log = offline_files.TransactionLog(path)
        log.read()
        end = log.end
        path.write_bytes(data)
        os.utime(path, (200, 200))
        for name, time in marks.items():
            mark = path.with_name(path.name + name)
            mark.touch()
            os.utime(mark, (time, time))
        assert log.seal_if_synced()
        assert path.read_bytes() == data[:end]


class TestWandbCommands:
    def history(self, server: WandbServer) -> list[int]:
        (run,) = server.runs.values()
        return [row["telemetry/seq"] for row in run.history]

    def test_sync_between_attempts(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        for last, status in ((20, "preempted"), (50, "killed"), (70, "finished")):
            deliver(tmp_path, sample(1, last), status)
            sync(tmp_path)
            assert self.history(wandb_server) == numbers_up_to(last)
        (run,) = wandb_server.runs.values()
        assert (run.exit_code, run.summary["telemetry/status"]) == (0, "finished")
        assert [row["_step"] for row in run.history] == list(range(70))

    def test_sync_while_the_run_is_being_written(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        sink, _ = open_sink(tmp_path)
        sink.sink_write(sample(1, 20))
        wait_for(lambda: len(rows(tmp_path)) == 20)
        sync(tmp_path)
        with pytest.raises(SinkUnavailable, match="has been synced and accepts no further rows"):
            sink.sink_write(sample(21, 40))
        sink, found = open_sink(tmp_path)
        assert found.last_seq == 20
        sink.sink_write(sample(21, 60))
        wait_for(lambda: len(rows(tmp_path)) == 60)
        sync(tmp_path)
        with pytest.raises(SinkUnavailable, match="has been synced"):
            sink.sink_close("finished", "")
        deliver(tmp_path, sample(1, 60))
        sync(tmp_path)
        assert self.history(wandb_server) == numbers_up_to(60)
        (run,) = wandb_server.runs.values()
        assert run.exit_code == 0

    def test_clean_after_sync(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        deliver(tmp_path, sample(1, 30), "preempted")
        sync(tmp_path)
        wandb_cli(tmp_path, "clean", "--force", "--min-hours", "0")
        assert transaction_logs(tmp_path) == []
        sink, found = open_sink(tmp_path)
        assert found.last_seq is None
        sink.sink_write(sample(31, 50))
        sink.sink_close("finished", "")
        sync(tmp_path)
        (run,) = wandb_server.runs.values()
        assert self.history(wandb_server) == numbers_up_to(50)
        assert [row["_step"] for row in run.history] == list(range(50))

    def test_a_deleted_folder_is_filled_again(self, tmp_path: Path) -> None:
        deliver(tmp_path, sample(1, 30))
        subprocess.run(["/bin/rm", "-r", str(tmp_path / "wandb")], check=True)
        assert open_sink(tmp_path)[1].last_seq == 0
        deliver(tmp_path, sample(1, 40))
        assert seqs(tmp_path) == numbers_up_to(40)
