"""Checkpoint files are found, pruned and renamed by the iteration in their name, and only complete ones are used."""

import math
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aimnet2mult.errors import CheckpointError
from aimnet2mult.models.checkpoint_folder import (
    best_path,
    checkpoint_path,
    diverged_path,
    find_damaged,
    find_newest,
    iteration_of,
    prune,
    rename_diverged,
)
from telemetry import Metric
from telemetry.alerts.detector import AnomalyDetector
from telemetry.alerts.settings import AlertSettings
from telemetry.records import Scalars


def write(run: Path, *iterations: int) -> list[Path]:
    """Write files that are complete, as far as that can be checked without torch."""
    paths = [checkpoint_path(run, iteration) for iteration in iterations]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", bytes(range(256)) * 10)
    return paths


def iterations(run: Path) -> list[int]:
    return sorted(iteration_of(path) for path in (run / "checkpoints").iterdir())


def test_the_name_contains_the_iteration(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1200)
    assert path == tmp_path / "checkpoints/step-00001200.pt"
    assert iteration_of(path) == 1200
    assert [best_path(tmp_path), diverged_path(tmp_path)] == [path.with_name("best.pt"), path.with_name("diverged.pt")]


@pytest.mark.parametrize(
    "name",
    ["step-1200.pt", "step-00001200.pt.tmp", "diverged-step-00001200.pt", "step-0000120x.pt", "best.pt", "step-.pt"],
)
def test_a_file_with_another_name_is_not_a_checkpoint(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{name} is not a checkpoint: expected a name like step-00001200\.pt"):
        iteration_of(tmp_path / name)
    (complete,) = write(tmp_path, 1200)
    complete.rename(complete.with_name(name))
    assert find_newest(tmp_path) is None


def test_iterations_beyond_the_width_of_the_name_are_ordered_as_numbers(tmp_path: Path) -> None:
    _, newest = write(tmp_path, 99_999_999, 100_000_000)
    assert find_newest(tmp_path) == newest


@pytest.mark.parametrize("cut", [0, 1, 100, -1], ids=["empty", "one byte", "head", "no end"])
def test_a_torn_file_is_ignored_and_reported_as_damaged(tmp_path: Path, cut: int) -> None:
    complete, torn = write(tmp_path, 100, 200)
    torn.write_bytes(torn.read_bytes()[:cut])
    assert find_newest(tmp_path) == complete
    assert find_damaged(tmp_path) == [torn]


def test_a_file_with_a_changed_byte_is_ignored(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 200)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert find_newest(tmp_path) is None
    assert find_damaged(tmp_path) == [path]


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert find_newest(tmp_path) is None
    assert find_damaged(tmp_path) == []


def test_finding_the_newest_does_not_import_torch(tmp_path: Path) -> None:
    write(tmp_path, 7)
    code = (
        "import sys; from pathlib import Path; from aimnet2mult.models.checkpoint_folder import find_newest;"
        f"print(find_newest(Path({str(tmp_path)!r})).name, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["step-00000007.pt", "False"]


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    *_, latest = write(tmp_path, 5, 90, 100, 1000)
    prune(latest, keep=2, last_healthy_step=1000)
    assert iterations(tmp_path) == [100, 1000]


def test_pruning_removes_superseded_checkpoints_and_temporary_files_but_never_the_latest(tmp_path: Path) -> None:
    write(tmp_path, 100, 200, 300)
    left = [".step-00000400.pt.0123456789abcdef.tmp", ".best.pt.4711.0.tmp", "step-00000400.tmp"]
    foreign = ["notes.tmp", ".step-00000400.pt.old.tmp", "best.pt", "diverged.pt"]
    for name in left + foreign:
        (tmp_path / "checkpoints" / name).touch()
    (latest,) = write(tmp_path, 150)
    prune(latest, keep=1, last_healthy_step=150)
    assert sorted(path.name for path in latest.parent.iterdir()) == sorted([latest.name, *foreign])


def test_the_newest_healthy_checkpoint_is_kept_in_addition(tmp_path: Path) -> None:
    for iteration, healthy in ((10, 10), (20, 20), (30, 25), (40, 25), (50, 25)):
        (latest,) = write(tmp_path, iteration)
        prune(latest, keep=2, last_healthy_step=healthy)
    assert iterations(tmp_path) == [20, 40, 50]
    (latest,) = write(tmp_path, 60)
    prune(latest, keep=2, last_healthy_step=60)
    assert iterations(tmp_path) == [50, 60]


def test_a_checkpoint_of_exactly_the_last_healthy_step_is_healthy(tmp_path: Path) -> None:
    *_, latest = write(tmp_path, 10, 20, 30)
    prune(latest, keep=1, last_healthy_step=20)
    assert iterations(tmp_path) == [20, 30]


@pytest.mark.parametrize(
    "growth",
    [lambda _: 20.0, lambda m: 1.05 ** min(m, 150), lambda m: 1.02 ** min(m, 150)],
    ids=["20-fold jump", "5 % per point", "2 % per point"],
)
def test_a_checkpoint_from_before_a_divergence_survives_200_points_of_it(
    tmp_path: Path, growth: Callable[[int], float]
) -> None:
    detector = AnomalyDetector({"train_window/loss": Metric(watch=True)}, AlertSettings())
    chance = random.Random(0)
    losses = [(1.0 if n < 100 else growth(n - 100)) * math.exp(chance.gauss(0, 0.1)) for n in range(300)]
    for step, loss in enumerate(losses):
        detector.observe(Scalars(seq=1, time=1, stream="train_window", step=step, values={"loss": loss}))
        if step and not step % 10:
            (latest,) = write(tmp_path, step)
            prune(latest, keep=2, last_healthy_step=detector.last_healthy_step)
    healthy, *newest = iterations(tmp_path)
    assert newest == [280, 290]
    assert 90 <= healthy < 170
    assert losses[healthy] < 4


def test_checkpoints_after_the_divergence_are_renamed_and_not_resumed(tmp_path: Path) -> None:
    _, healthy, diverged = write(tmp_path, 10, 20, 30)
    rename_diverged(tmp_path, after=20)
    assert find_newest(tmp_path) == healthy
    assert diverged.with_name("diverged-step-00000030.pt").exists()


@pytest.mark.parametrize("what", ["compressed", "pipe", "link", "encrypted"])
def test_a_checkpoint_that_must_not_be_read_is_damaged(tmp_path: Path, what: str) -> None:
    good, bad = write(tmp_path, 10, 20)
    content = bytearray(bad.read_bytes())
    bad.unlink()
    if what == "compressed":
        with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data", bytes(10**6))
    elif what == "pipe":
        os.mkfifo(bad)
    elif what == "link":
        bad.symlink_to(good)
    else:
        content[content.index(b"PK\x01\x02") + 8] = 1
        bad.write_bytes(content)
    assert find_newest(tmp_path) == good
    assert find_damaged(tmp_path) == [bad]
