"""Trainings with random settings, ended at random moments: what they leave behind does not depend on the ends.

Values of all streams, the last checkpoint, best.pt and ``--save`` are compared bit by bit.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("aimnet")


def compare(folder: Path, seeds: Iterable[int]) -> str:
    command = [sys.executable, "-m", "support.random_runs", folder, *seeds]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_a_training_that_is_ended_at_random_moments_leaves_the_same_results(tmp_path: Path) -> None:
    assert compare(tmp_path, [0, 22]) == ""


@pytest.mark.chaos
@pytest.mark.parametrize("start", range(100, 400, 25))
def test_many_trainings_that_are_ended_at_random_moments_leave_the_same_results(tmp_path: Path, start: int) -> None:
    assert compare(tmp_path, range(start, start + 25)) == ""
