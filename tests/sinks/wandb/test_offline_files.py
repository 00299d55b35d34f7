"""W&B's offline files that are torn, or that wandb's own commands have taken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sinks.wandb import client_process, offline_files
from support.wandb_kit import deliver, in_a_row, opened, rows, segment_files, seqs, sync, wait_for, wandb_cli
from support.wandb_server import WandbServer
from telemetry.sink_api import SinkUnavailable
from telemetry.testing.points import sample

# Runs that are dropped without a word leave threads of wandb's, which complain when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with 700 rows in several blocks, and no end."""
    folder = tmp_path_factory.mktemp("whole")
    sink, _ = opened(folder)
    sink.sink_write(sample(1, 700))
    (path,) = segment_files(folder)
    wait_for(lambda: path.stat().st_size > 3 << 15)
    client_process.end_noted(sink._note)
    return path


BLOCK = 1 << 15
CUTS = {
    "empty": 0,
    "in the header": 3,
    "header only": 7,
    "in the first record's head": 10,
    "in the first record": 200,
    "at the end of a block": BLOCK,
    "in the head of a block's first piece": BLOCK + 3,
    "in a piece that goes on in the next block": 2 * BLOCK - 30,
    "anywhere": 2 * BLOCK + 4321,
    "nowhere": 1 << 40,
}
SYNCED = ["in the first record", "in a piece that goes on in the next block", "anywhere", "nowhere"]


class TestTornFiles:
    @pytest.mark.parametrize(
        ("cut", "tail"),
        [*((cut, "") for cut in CUTS), ("nowhere", "zeros"), *((cut, "garbage") for cut in SYNCED)],
    )
    def test_one_is_mended_and_all_is_synced_once(
        self, tmp_path: Path, whole: Path, wandb_server: WandbServer, cut: str, tail: str
    ) -> None:
        folder = tmp_path / whole.parents[2].name
        path = folder / "wandb" / whole.parent.name / whole.name
        path.parent.mkdir(parents=True)
        data = whole.read_bytes()[: CUTS[cut]]
        path.write_bytes(data + {"": b"", "zeros": bytes(5000), "garbage": b"\x01\x7f\xff" * 999}[tail])
        deliver(folder, sample(1, 800), "failed")
        assert seqs(folder) == in_a_row(800)
        # To sync takes a second each.
        if tail == "garbage":
            told = sync(folder)
            assert len(wandb_server.runs) == 1, told
            (run,) = wandb_server.runs.values()
            assert [row["telemetry/seq"] for row in run.history] == in_a_row(800)
            assert [row["_step"] for row in run.history] == sorted({row["_step"] for row in run.history})
            assert run.exit_code == 1

    def test_every_byte_of_a_file_that_was_damaged_costs_at_most_what_follows(
        self, whole: Path, tmp_path: Path
    ) -> None:
        data = whole.read_bytes()
        path = tmp_path / whole.name
        read = []
        for place in range(BLOCK - 300, BLOCK + 300, 7):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
            segment = offline_files.Segment(path)
            read.append(segment.read().last_seq or 0)
            assert segment.end <= place
        assert read == sorted(read)

    def test_a_file_that_is_read_while_it_grows_by_bytes_gives_what_is_whole(self, whole: Path, tmp_path: Path) -> None:
        data = whole.read_bytes()
        path = tmp_path / whole.name
        path.write_bytes(b"")
        segment = offline_files.Segment(path)
        with path.open("ab", buffering=0) as file:
            for start in range(0, 3 * BLOCK, 997):
                file.write(data[start : start + 997])
                segment.read()
        once = offline_files.Segment(path)
        assert segment.read() == once.read()
        assert segment.end == once.end


class TestBesideWandbsCommands:
    def history(self, server: WandbServer) -> list[int]:
        (run,) = server.runs.values()
        return [row["telemetry/seq"] for row in run.history]

    def test_a_sync_between_two_attempts(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        for last, status in ((20, "preempted"), (50, "killed"), (70, "finished")):
            deliver(tmp_path, sample(1, last), status)
            sync(tmp_path)
            assert self.history(wandb_server) == in_a_row(last)
        (run,) = wandb_server.runs.values()
        assert (run.exit_code, run.summary["telemetry/status"]) == (0, "finished")
        assert [row["_step"] for row in run.history] == list(range(70))

    def test_a_sync_of_a_run_that_is_still_written(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        sink, _ = opened(tmp_path)
        sink.sink_write(sample(1, 20))
        wait_for(lambda: len(rows(tmp_path)) == 20)
        sync(tmp_path)
        with pytest.raises(SinkUnavailable, match="was synced and takes no more"):
            sink.sink_write(sample(21, 40))
        sink, found = opened(tmp_path)
        assert found.last_seq == 20
        sink.sink_write(sample(21, 60))
        wait_for(lambda: len(rows(tmp_path)) == 60)
        sync(tmp_path)
        with pytest.raises(SinkUnavailable, match="was synced"):
            sink.sink_close("finished", "")
        deliver(tmp_path, sample(1, 60))
        sync(tmp_path)
        assert self.history(wandb_server) == in_a_row(60)
        (run,) = wandb_server.runs.values()
        assert run.exit_code == 0

    def test_a_clean_of_what_was_synced(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        deliver(tmp_path, sample(1, 30), "preempted")
        sync(tmp_path)
        wandb_cli(tmp_path, "clean", "--force", "--min-hours", "0")
        assert segment_files(tmp_path) == []
        sink, found = opened(tmp_path)
        assert found.last_seq is None
        sink.sink_write(sample(31, 50))
        sink.sink_close("finished", "")
        sync(tmp_path)
        (run,) = wandb_server.runs.values()
        assert self.history(wandb_server) == in_a_row(50)
        assert [row["_step"] for row in run.history] == list(range(50))

    def test_a_folder_that_was_deleted_is_filled_again(self, tmp_path: Path) -> None:
        deliver(tmp_path, sample(1, 30))
        subprocess.run(["/bin/rm", "-r", str(tmp_path / "wandb")], check=True)
        assert opened(tmp_path)[1].last_seq == 0
        deliver(tmp_path, sample(1, 40))
        assert seqs(tmp_path) == in_a_row(40)
