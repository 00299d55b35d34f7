"""When a training has to stop, and that it does so in time."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from aimnet2mult.train.time_limit import TimeLimit, find_end
from support.tiny_model import TinyCore
from support.tiny_runs import newest_checkpoint, train_tiny


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance_until(self, limit: TimeLimit, step: float) -> float:
        while not limit.is_reached():
            self.now += step
        return self.now - 1000.0


def test_a_duration_counts_from_the_start_of_the_process() -> None:
    assert find_end("90min", 1000.0) == 1000.0 + 5400.0
    assert find_end(None, 1000.0) is None


def test_outside_of_slurm_there_is_no_automatic_limit() -> None:
    assert find_end("auto", 1000.0, {"SLURM_JOB_END_TIME": "2000"}) is None


def test_slurm_states_the_end_of_the_job() -> None:
    assert find_end("auto", 1000.0, {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "2000"}) == 2000.0


@pytest.mark.parametrize(
    ("answer", "left"),
    [("0:30", 30), ("5:00", 300), ("2:03:04", 7384), ("1-02:03:04", 93784), ("UNLIMITED", None), ("INVALID", None)],
)
def test_an_early_version_of_slurm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: float | None
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ "$*" = "--noheader --jobs=7 --format=%L" ] && echo "  {answer}"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    end = find_end("auto", 1000.0, {"SLURM_JOB_ID": "7"})
    assert end is None if left is None else end == pytest.approx(time.time() + left, abs=30)


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", None])
def test_there_is_no_limit_if_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    if script:
        (tmp_path / "squeue").write_text(script)
        (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_end("auto", 1000.0, {"SLURM_JOB_ID": "7"}) is None


def test_a_long_run_keeps_a_minute_and_two_of_its_slowest_intervals() -> None:
    clock = Clock()
    limit = TimeLimit(1000.0 + 3600.0, clock=clock)
    clock.now += 40.0
    assert not limit.is_reached()
    assert clock.advance_until(limit, 1.0) == 3600.0 - 60.0 - 2 * 40.0


def test_the_time_for_reading_the_data_does_not_count_as_an_iteration() -> None:
    clock = Clock()
    limit = TimeLimit(1000.0 + 3600.0, clock=clock)
    assert not limit.is_reached()
    clock.now += 1300.0
    limit.restart()
    assert clock.advance_until(limit, 1.0) == 3600.0 - 60.0 - 2 * 1.0


def test_a_short_run_keeps_a_tenth() -> None:
    clock = Clock()
    assert clock.advance_until(TimeLimit(1000.0 + 100.0, clock=clock), 1.0) == 100.0 - 10.0 - 2 * 1.0


def test_a_limit_in_the_past_is_reached_and_no_limit_never() -> None:
    clock = Clock()
    assert TimeLimit(900.0, clock=clock).is_reached()
    assert not TimeLimit(None, clock=clock).is_reached()


def test_a_run_at_its_limit_stops_like_a_preempted_one_and_can_be_resumed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stopped = train_tiny(tmp_path, "trainer.time_limit=0.001s")
    said = capfd.readouterr()
    assert "stopped by trainer.time_limit; resume with: aimnet2mult train --resume" in said.out + said.err
    assert train(Request(resume=str(stopped), overrides=["trainer.time_limit=1h"])) == 0
    assert newest_checkpoint(stopped).stem.endswith("12")


run_clock = Clock()
"""The clock of the run that is slow to build."""


class SlowToBuild(TinyCore):
    """A model that takes 40 s to build, by the clock of the run."""

    def __init__(self) -> None:
        super().__init__()
        run_clock.now += 40.0


def test_a_slow_start_does_not_end_a_run_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_clock.now = start = time.time()
    monkeypatch.setattr("aimnet2mult.train.rank_training.TimeLimit", partial(TimeLimit, clock=run_clock))
    run = train_tiny(tmp_path, "trainer.time_limit=100s", model=f"{__name__}.SlowToBuild")
    assert run_clock.now == start + 40.0
    assert newest_checkpoint(run).stem.endswith("12")
