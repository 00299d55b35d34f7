"""Competing deliveries, on one machine or two: only one writes, and a run that was handed over is not closed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.chaos.backends import Recording, TensorBoard
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually, lines_of
from telemetry.delivery.sink_connection import MAX_BATCH
from telemetry.run_folder.sink_progress import read_progress

pytestmark = pytest.mark.chaos

ENDLESS = 20_000


def pids(run: ChaosRun) -> list[int]:
    """Return the IDs of the processes that opened the recording sink, in order."""
    return [int(line.split()[0]) for line in lines_of(run.folder / "file" / "opened")]


def finished_without_sinks(run: ChaosRun, points: int = 3000) -> None:
    trainer = run.start(points=points, stay=0.1)
    trainer.communicate(timeout=PATIENCE)
    assert trainer.returncode == 0
    run.count(run.home())


def test_of_four_concurrent_syncs_one_delivers_and_the_others_name_it(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), sinks=(), pause=0.0)
    finished_without_sinks(run)
    (run.folder / "file").mkdir()
    (run.folder / "file" / "slow").touch()
    syncs = [run.start_sync() for _ in range(4)]
    eventually(lambda: sum(sync.poll() is not None for sync in syncs) == 3, PATIENCE)
    (run.folder / "file" / "slow").unlink()
    for sync in syncs:
        sync.communicate(timeout=PATIENCE)
    logs = [run.stderr_of(sync) for sync in syncs]
    (winner,) = [sync for sync in syncs if sync.returncode == 0]
    assert sorted(sync.returncode for sync in syncs) == [0, 2, 2, 2]
    assert (
        sum(f"process {winner.pid} on" in text and "is already delivering this run to 'file'" in text for text in logs)
        == 3
    )
    run.compare()
    run.check()
    figures(run.figures)


def test_a_delivery_frozen_beyond_its_lease_duplicates_no_more_than_one_batch(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), still=1.0, pause=0.005)
    first = run.start(points=ENDLESS)
    eventually(lambda: run.accepted("file"), PATIENCE)
    (run.folder / "file" / "slow").touch()
    (frozen,) = eventually(lambda: [int(line) for line in lines_of(run.folder / "file" / "waits")], PATIENCE)
    os.kill(frozen, signal.SIGSTOP)
    (run.folder / "file" / "slow").unlink()
    run.kill_target(first, "trainer")
    first.wait()
    run.count(run.home())
    second = run.start(points=200, stay=PATIENCE)
    eventually(lambda: len(set(pids(run))) == 2, PATIENCE)
    eventually(lambda: run.accepted("file") >= max(run.records()), PATIENCE)
    os.kill(frozen, signal.SIGCONT)
    eventually(lambda: not Path(f"/proc/{frozen}/exe").exists(), PATIENCE)
    run.stop(second)
    run.wait_for_processes()
    assert lines_of(run.folder / "file" / "closed") == ["finished"], "a run that was handed over is not closed"
    run.sync()
    run.compare()
    assert run.figures.lost["file"] == 0
    assert run.figures.doubled["file"] <= MAX_BATCH
    figures(run.figures)


def test_a_run_on_a_dead_machine_is_delivered_and_closed_from_another(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None]
) -> None:
    run = chaos_run(Recording(), TensorBoard(), host="elsewhere", still=1.5, pause=0.002)
    trainer = run.start(points=ENDLESS)
    eventually(lambda: run.accepted("file") and run.accepted("tensorboard"), PATIENCE)
    run.kill_target(trainer, "job")
    run.wait_for_processes()
    run.count(run.home())
    assert "closed as killed" in run.sync()
    run.compare()
    run.check()
    figures(run.figures)


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_run_is_followed_from_another_machine_until_it_ends(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], end: str
) -> None:
    run = chaos_run(Recording(), TensorBoard(), sinks=(), still=2.0, pause=0.01)
    trainer = run.start(points=ENDLESS)
    eventually((run.run / "journal-0.jsonl").exists, PATIENCE)
    follower = run.start_sync(host="elsewhere", follow=True)
    run.wait_for_new_point("file")
    run.wait_for_new_point("tensorboard")
    if end == "finished":
        run.stop(trainer)
    else:
        run.kill_target(trainer, "trainer")
        trainer.wait()
        run.count(run.home())
    out, _ = follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 0
    assert out.count(f"closed as {end}") == 2
    run.compare()
    run.check()
    progress = read_progress(run.run, "file")
    assert progress is not None
    assert progress.cursor.closed == end
    figures(run.figures)
